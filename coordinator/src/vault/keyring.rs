//! The cluster key: where it comes from, and what it looks like.
//!
//! It is 32 random bytes, written as 64 hex digits. In this order it is taken from the environment, from systemd's
//! credentials, from an external keeper, or from a file that only its owner can read. Each may hold several keys, one
//! after the other: while the key is being rotated, the present one and the next. Which of them is the present one
//! says the state, by id. Without it a node serves nothing: everything sealed would be out of reach, and a node that
//! made itself a new key would seal what nobody else can open.

use std::fmt;
use std::io;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use common::atomic_file;
use common::failure::{Failure, FailureKind};
use common::secret::Secret;

use super::keeper;

/// The environment variable that may hold the key.
pub const KEY_VARIABLE: &str = "DROVER_CLUSTER_KEY";
/// The name of the key among systemd's credentials.
const CREDENTIAL_NAME: &str = "cluster.key";
/// Digits of a key.
const HEX_DIGITS: usize = 64;
/// Keys in one source: the present one, the next one, and some before it that were not dropped.
pub const KEYS_MAX: usize = 8;
/// Separates the key's id from every other use of it.
const ID_CONTEXT: &str = "drover 2026-11 id of a cluster key";

/// The key that all other keys are wrapped by.
#[derive(Clone)]
pub struct ClusterKey(Secret<[u8; 32]>);

/// What a key may be read from, as the environment says; so that only `main` reads the environment.
#[derive(Clone, Debug, Default)]
pub struct KeySources {
    /// The value of [`KEY_VARIABLE`].
    pub variable: Option<Secret<String>>,
    /// The value of `CREDENTIALS_DIRECTORY`.
    pub credentials_directory: Option<PathBuf>,
    /// The command of an external keeper and its arguments; empty when there is none.
    pub command: Vec<String>,
    /// The configured file.
    pub file: PathBuf,
}

/// Which of the sources the keys come from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Source {
    /// The environment.
    Variable,
    /// systemd.
    Credential,
    /// An external keeper.
    Keeper,
    /// A file; the only one that we can write.
    File,
}

impl KeySources {
    /// Reads the sources out of this process's environment.
    pub fn of_environment(file: PathBuf, command: Vec<String>) -> Self {
        Self {
            variable: std::env::var(KEY_VARIABLE).ok().map(Secret::new),
            credentials_directory: std::env::var_os("CREDENTIALS_DIRECTORY").map(PathBuf::from),
            command,
            file,
        }
    }

    /// Returns the first key, or nothing when no source has one.
    ///
    /// # Errors
    /// When a source has something that is not a key, or a file that others can read.
    pub fn find(&self) -> Result<Option<ClusterKey>, Failure> {
        Ok(self.find_all()?.and_then(|(_, keys)| keys.into_iter().next()))
    }

    /// Returns all keys of the first source that has any.
    ///
    /// # Errors
    /// When a source has something that is not a key, or a file that others can read.
    pub fn find_all(&self) -> Result<Option<(Source, Vec<ClusterKey>)>, Failure> {
        if let Some(text) = &self.variable {
            let keys = parse(text.expose(), &format!("the variable {KEY_VARIABLE}"))?;
            return Ok(Some((Source::Variable, keys)));
        }
        let credential = self.credentials_directory.as_ref().map(|directory| directory.join(CREDENTIAL_NAME));
        if let Some(keys) = credential.as_deref().map(read).transpose()?.flatten() {
            return Ok(Some((Source::Credential, keys)));
        }
        if !self.command.is_empty() {
            let keys =
                parse(keeper::ask(&self.command)?.expose(), "what the keeper of the cluster key printed")?;
            return Ok(Some((Source::Keeper, keys)));
        }
        check_mode(&self.file)?;
        Ok(read(&self.file)?.map(|keys| (Source::File, keys)))
    }

    /// Whether the keys come from a keeper, which may take seconds to answer.
    pub fn asks_keeper(&self) -> bool {
        let has_credential = self
            .credentials_directory
            .as_ref()
            .is_some_and(|directory| directory.join(CREDENTIAL_NAME).exists());
        self.variable.is_none() && !has_credential && !self.command.is_empty()
    }

    /// Returns the key.
    ///
    /// # Errors
    /// When there is none, or it cannot be used.
    pub fn load(&self) -> Result<ClusterKey, Failure> {
        let missing = || {
            let message = format!("there is no cluster key at {}", self.file.display());
            Failure::new(FailureKind::Invalid, message).hint(format!(
                "copy the file from another coordinator, or pass the key as systemd credential `{CREDENTIAL_NAME}`, by `cluster_key_command` or in {KEY_VARIABLE}"
            ))
        };
        self.find()?.ok_or_else(missing)
    }

    /// Returns the key, after making one in the configured file if no source has any.
    ///
    /// # Errors
    /// When a source has something that is not a key, or the file cannot be written.
    pub fn load_or_create(&self) -> Result<ClusterKey, Failure> {
        if let Some(key) = self.find()? {
            return Ok(key);
        }
        let key = ClusterKey::generate()?;
        self.store(&key)?;
        Ok(key)
    }

    /// Writes a key into the configured file.
    ///
    /// # Errors
    /// When it cannot be written.
    pub fn store(&self, key: &ClusterKey) -> Result<(), Failure> {
        self.store_all(std::slice::from_ref(key))
    }

    /// Writes keys into the configured file, instead of what it holds.
    ///
    /// # Errors
    /// When it cannot be written.
    pub fn store_all(&self, keys: &[ClusterKey]) -> Result<(), Failure> {
        let mut text = Secret::new(String::with_capacity(keys.len() * (HEX_DIGITS + 1)));
        for key in keys {
            text.expose_mut().push_str(key.reveal().expose());
            text.expose_mut().push('\n');
        }
        let written = atomic_file::write(&self.file, text.expose().as_bytes(), 0o600);
        written.map_err(|error| unusable(&self.file, &error))
    }
}

impl ClusterKey {
    /// Makes a key out of its bytes.
    pub fn new(bytes: [u8; 32]) -> Self {
        Self(Secret::new(bytes))
    }

    /// Reads a key of 64 hex digits.
    ///
    /// # Errors
    /// When the text is something else.
    pub fn parse(text: &str) -> Result<Self, Failure> {
        let keys = parse(text, "the given text")?;
        keys.into_iter().next().ok_or_else(|| no_key("the given text"))
    }

    /// Makes a new key.
    ///
    /// # Errors
    /// When randomness fails.
    pub fn generate() -> Result<Self, Failure> {
        let mut bytes = [0; 32];
        getrandom::fill(&mut bytes).map_err(|error| Failure::of(FailureKind::Bug, &error))?;
        Ok(Self::new(bytes))
    }

    /// Returns the key itself.
    pub fn expose(&self) -> &[u8; 32] {
        self.0.expose()
    }

    /// Returns the key as text, for the one node that joins and for its own file.
    pub fn reveal(&self) -> Secret<String> {
        Secret::new(self.expose().iter().map(|byte| format!("{byte:02x}")).collect())
    }

    /// Returns what an envelope says about the key that it needs; tells nothing about the key itself.
    pub fn id(&self) -> [u8; 8] {
        let mut id = [0; 8];
        id.copy_from_slice(&blake3::derive_key(ID_CONTEXT, self.expose())[..8]);
        id
    }
}

impl fmt::Debug for ClusterKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("ClusterKey(…)")
    }
}

fn read(path: &Path) -> Result<Option<Vec<ClusterKey>>, Failure> {
    match std::fs::read_to_string(path) {
        Ok(text) => {
            let text = Secret::new(text);
            parse(text.expose(), &path.display().to_string()).map(Some)
        }
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(unusable(path, &error)),
    }
}

/// Refuses a key file that others can read.
fn check_mode(path: &Path) -> Result<(), Failure> {
    let mode = match std::fs::metadata(path) {
        Ok(metadata) => metadata.permissions().mode() & 0o077,
        Err(error) if error.kind() == io::ErrorKind::NotFound => 0,
        Err(error) => return Err(unusable(path, &error)),
    };
    if mode == 0 {
        return Ok(());
    }
    let message = format!("the cluster key {} can be read by others than its owner", path.display());
    Err(Failure::new(FailureKind::Invalid, message).hint(format!("chmod 600 {}", path.display())))
}

/// Reads keys with blanks or line ends between them.
fn parse(text: &str, place: &str) -> Result<Vec<ClusterKey>, Failure> {
    let key = |word| blake3::Hash::from_hex(word).map(|parsed| ClusterKey::new(*parsed.as_bytes()));
    let keys: Result<Vec<ClusterKey>, _> = text.split_whitespace().take(KEYS_MAX + 1).map(key).collect();
    if keys.as_ref().is_ok_and(|keys| keys.len() > KEYS_MAX) {
        let message = format!("{place} holds more than {KEYS_MAX} cluster keys");
        return Err(Failure::new(FailureKind::Invalid, message)
            .hint("keep a copy, then take out the first ones, which are the oldest"));
    }
    keys.ok().filter(|keys| !keys.is_empty()).ok_or_else(|| no_key(place))
}

fn no_key(place: &str) -> Failure {
    let message = format!("{place} holds no cluster key: {HEX_DIGITS} hex digits are expected");
    Failure::new(FailureKind::Invalid, message)
        .hint("put the cluster key of this cluster in place; another coordinator or your backup has it")
}

fn unusable(path: &Path, error: &io::Error) -> Failure {
    Failure::new(FailureKind::Invalid, format!("the cluster key {}: {error}", path.display()))
        .hint("put the cluster key of this cluster in place; another coordinator or your backup has it")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn is_made_once_privately_and_read_back() {
        let directory = tempfile::tempdir().unwrap();
        let sources = KeySources { file: directory.path().join("cluster.key"), ..KeySources::default() };
        assert_eq!(sources.load().unwrap_err().kind, FailureKind::Invalid);
        let made = sources.load_or_create().unwrap();
        assert_eq!(sources.load_or_create().unwrap().expose(), made.expose());
        assert_eq!(std::fs::metadata(&sources.file).unwrap().permissions().mode() & 0o777, 0o600);
        std::fs::set_permissions(&sources.file, std::fs::Permissions::from_mode(0o640)).unwrap();
        assert!(sources.load().unwrap_err().hint.unwrap().contains("chmod 600"));
    }

    #[test]
    fn variable_wins_over_credential_and_credential_over_file() {
        let directory = tempfile::tempdir().unwrap();
        let hex = |byte: &str| byte.repeat(32);
        std::fs::write(directory.path().join(CREDENTIAL_NAME), hex("02")).unwrap();
        let file = directory.path().join("own.key");
        let mut sources = KeySources {
            variable: Some(Secret::new(hex("01"))),
            credentials_directory: Some(directory.path().to_owned()),
            command: Vec::new(),
            file,
        };
        sources.store(&ClusterKey::new([3; 32])).unwrap();
        assert_eq!(sources.load().unwrap().expose(), &[1; 32]);
        sources.variable = None;
        assert_eq!(sources.load().unwrap().expose(), &[2; 32]);
        sources.credentials_directory = None;
        assert_eq!(sources.load().unwrap().expose(), &[3; 32]);
        sources.variable = Some(Secret::new(vec![hex("01"); KEYS_MAX + 1].join(" ")));
        assert!(sources.load().unwrap_err().message.contains("more than 8"), "the ninth is passed over");
        sources.variable = Some(Secret::new("nonsense".to_owned()));
        assert!(!sources.load().unwrap_err().message.contains("nonsense"));
    }
}
