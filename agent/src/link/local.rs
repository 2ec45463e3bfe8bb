//! Secrets that stand on this host: in the agent's environment, or in a file that nobody else can read.

use std::fs::OpenOptions;
use std::io::Read;
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};

use common::failure::{Failure, FailureKind};
use common::limit::SECRET_BYTES_MAX;
use common::reference::Reference;
use common::secret::Secret;

/// Reads what a reference names here. One line end at the end of a file does not count, for editors put one there.
///
/// # Errors
/// When it does not stand here, is empty, too large, or can be read or written by others.
pub(super) fn read(reference: &Reference) -> Result<Secret<Vec<u8>>, Failure> {
    let refused = |kind, why: &str, hint: &str| Failure::new(kind, format!("{reference}: {why}")).hint(hint);
    let value = match reference {
        Reference::Env(name) => {
            use std::os::unix::ffi::OsStringExt;
            let value = std::env::var_os(name).map(|value| Secret::new(value.into_vec()));
            value.ok_or_else(|| {
                let hint =
                    "set it where the agent is started, for systemd with `systemctl edit drover-agent`";
                refused(FailureKind::NotFound, "the agent's environment has no such variable", hint)
            })?
        }
        Reference::File(path) => read_file(path).map_err(|(kind, why, hint)| refused(kind, &why, hint))?,
        Reference::Secret(_) | Reference::Vault { .. } => {
            return Err(refused(FailureKind::Bug, "the coordinator opens it", "report this as a bug"));
        }
    };
    match value.expose().len() {
        0 => Err(refused(FailureKind::Invalid, "it is empty", "put the value there")),
        length if length > SECRET_BYTES_MAX => {
            Err(refused(FailureKind::Invalid, "it is larger than 1 MiB", "a secret holds at most 1 MiB"))
        }
        _ => Ok(value),
    }
}

type Refused = (FailureKind, String, &'static str);

fn read_file(path: &str) -> Result<Secret<Vec<u8>>, Refused> {
    const LOOK: &str = "look at the path on the host whose agent said this";
    let unreadable = |error: std::io::Error| {
        let kind = match error.kind() {
            std::io::ErrorKind::NotFound => FailureKind::NotFound,
            _ => FailureKind::Denied,
        };
        (kind, format!("it cannot be read: {error}"), LOOK)
    };
    // No link is followed at the end of the path, and a pipe does not hold the agent up.
    let flags = rustix::fs::OFlags::NOFOLLOW | rustix::fs::OFlags::NONBLOCK;
    let flags = i32::try_from(flags.bits()).unwrap_or(0);
    let file = OpenOptions::new().read(true).custom_flags(flags).open(path).map_err(unreadable)?;
    let found = file.metadata().map_err(unreadable)?;
    let own = rustix::process::geteuid().as_raw();
    if !found.is_file() {
        return Err((FailureKind::Invalid, "it is no regular file".to_owned(), LOOK));
    }
    if found.uid() != 0 && found.uid() != own {
        let why = format!("it belongs to user {}, who could put anything there", found.uid());
        return Err((FailureKind::Denied, why, "chown it to root"));
    }
    if found.mode() & 0o027 != 0 {
        let why = format!("its mode {:04o} lets others read it, or write to it", found.mode() & 0o7777);
        return Err((FailureKind::Denied, why, "chmod 600, or 640 for a group that may read it"));
    }
    let mut value = Secret::new(Vec::with_capacity(SECRET_BYTES_MAX + 2));
    file.take(SECRET_BYTES_MAX as u64 + 2).read_to_end(value.expose_mut()).map_err(unreadable)?;
    let bytes = value.expose_mut();
    if bytes.last() == Some(&b'\n') {
        bytes.pop();
    }
    Ok(value)
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::{PermissionsExt, symlink};
    use std::path::Path;

    use super::*;

    fn file(path: &Path) -> Result<Secret<Vec<u8>>, Failure> {
        read(&format!("${{file:{}}}", path.display()).parse().unwrap())
    }

    #[test]
    fn a_file_is_read_only_if_nobody_else_can() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("key");
        std::fs::write(&path, b"\xff canary\n").unwrap();
        let mode = |mode| std::fs::set_permissions(&path, PermissionsExt::from_mode(mode)).unwrap();
        for (bits, is_good) in
            [(0o600, true), (0o640, true), (0o400, true), (0o644, false), (0o660, false), (0o602, false)]
        {
            mode(bits);
            match file(&path) {
                Ok(value) => assert!(is_good && value.expose() == b"\xff canary", "{bits:o}"),
                Err(failure) => {
                    assert!(!is_good && failure.kind == FailureKind::Denied, "{bits:o}: {failure}");
                }
            }
        }
        mode(0o600);
        let link = folder.path().join("link");
        symlink(&path, &link).unwrap();
        assert!(file(&link).is_err(), "a link was followed");
        assert_eq!(file(folder.path()).unwrap_err().kind, FailureKind::Invalid);
        assert_eq!(file(&folder.path().join("absent")).unwrap_err().kind, FailureKind::NotFound);
        std::fs::write(&path, b"\n").unwrap();
        assert!(file(&path).unwrap_err().message.contains("empty"));
        std::fs::write(&path, vec![7; SECRET_BYTES_MAX + 1]).unwrap();
        assert!(file(&path).unwrap_err().message.contains("1 MiB"));
    }

    #[test]
    fn a_variable_is_read_or_named() {
        let path = read(&"${env:PATH}".parse().unwrap()).unwrap();
        assert_eq!(path.expose(), std::env::var("PATH").unwrap().as_bytes());
        let absent = read(&"${env:DROVER_ABSENT}".parse().unwrap()).unwrap_err();
        assert!(absent.message.contains("DROVER_ABSENT") && absent.hint.is_some());
    }
}
