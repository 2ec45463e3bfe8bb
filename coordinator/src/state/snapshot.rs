//! The state as bytes: encoding of commands and of whole snapshots.
//!
//! Both begin with a byte of version. A snapshot is a run of frames (a tag, a length, postcard), then a frame with the
//! count and the BLAKE3 of all before, so that a cut or altered file is noticed before anything of it is believed. It
//! is written and read frame by frame: memory does not hold it twice. Indexes are not in it; reading makes them again.

use std::io::{self, Read, Write};
use std::sync::Arc;

use common::audit::line::Line;
use common::control::HostLimits;
use common::digest::Digest;
use common::failure::FailureKind;
use common::grant::Labels;
use common::id::{HostName, KeyId, MigrationId, OperatorName, SecretName, TenantId};
use common::view::MigrationView;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use super::access::Tenant;
use super::access::key::Key;
use super::access::user::User;
use super::audit::{Audit, Page};
use super::audit_v1::AuditV1;
use super::cluster::Cluster;
use super::control::Control;
use super::host::{Host, Voided};
use super::migration::Migration;
use super::piece::Pieces;
use super::refusal::Refusal;
use super::{Command, State, secret};

/// The version of [`Command`] in the log.
pub const COMMAND_VERSION: u8 = 1;
/// The version of a command behind the address that it came from.
pub const ADDRESSED_VERSION: u8 = 2;
/// The version of the snapshot's frames: 2 added the frames of the audit's pages, users, keys, tenants and labels, 3
/// those of the labels of secrets, of the cluster keys that are kept, and of voided certificates, 4 those of what was
/// changed while a migration ran.
pub const SNAPSHOT_VERSION: u8 = 4;
/// The oldest version that is read; what it lacks is empty.
const SNAPSHOT_VERSION_MIN: u8 = 1;
/// The version of the frames that hold secrets.
const SECRET_VERSION: u8 = 1;
/// What a snapshot file begins with.
const MAGIC: &[u8; 7] = b"DROVERS";
/// The largest frame that is believed, and written. The largest records are migrations, whose parts are bounded where
/// they enter: 8 MiB of findings, and about as much of the spec, the plan, outputs and failures each.
const FRAME_BYTES_MAX: u32 = 64 * 1024 * 1024;

/// Why bytes are not a snapshot.
#[derive(Debug, thiserror::Error)]
pub enum SnapshotError {
    /// The file could not be read or written.
    #[error("reading or writing the snapshot")]
    Io(#[from] io::Error),
    /// A record does not decode.
    #[error("decoding a record of the snapshot")]
    Record(#[from] postcard::Error),
    /// It is of a version that this program does not know.
    #[error(
        "the snapshot was written by a newer version of the program: its format is {0}, and this one reads {SNAPSHOT_VERSION_MIN} to {SNAPSHOT_VERSION}"
    )]
    Version(u8),
    /// It is cut or altered.
    #[error("the snapshot is damaged: {0}")]
    Damaged(&'static str),
}

/// The kinds of frames.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Tag {
    Cluster = 1,
    Host = 2,
    Migration = 3,
    Outbox = 4,
    /// As the first version wrote it.
    AuditV1 = 5,
    Pieces = 6,
    End = 7,
    User = 8,
    Key = 9,
    Tenant = 10,
    Labels = 11,
    Voided = 12,
    HostLimits = 13,
    Audit = 20,
    AuditLine = 21,
    AuditPage = 22,
    CondensedMigration = 23,
    Control = 24,
    Secret = 30,
    NextKey = 31,
    SecretLabels = 32,
    KeptFrom = 33,
    Request = 40,
}

impl Tag {
    fn of(byte: u8) -> Option<Self> {
        let all = [
            Self::Cluster,
            Self::Host,
            Self::Migration,
            Self::Outbox,
            Self::AuditV1,
            Self::Pieces,
            Self::End,
            Self::User,
            Self::Key,
            Self::Tenant,
            Self::Labels,
            Self::Voided,
            Self::HostLimits,
            Self::Audit,
            Self::AuditLine,
            Self::AuditPage,
            Self::CondensedMigration,
            Self::Control,
            Self::Secret,
            Self::NextKey,
            Self::SecretLabels,
            Self::KeptFrom,
            Self::Request,
        ];
        all.into_iter().find(|tag| *tag as u8 == byte)
    }
}

/// What was kept of a migration, as text: a shared document, which grows by fields.
#[derive(Serialize, Deserialize)]
struct ViewText(#[serde(with = "super::document")] Arc<MigrationView>);

/// What an operator said of a migration since it was made, as text.
#[derive(Serialize, Deserialize)]
struct ControlText(#[serde(with = "super::document")] Control);

/// What the migrations of a host share, as text.
#[derive(Serialize, Deserialize)]
struct LimitsText(#[serde(with = "super::document")] HostLimits);

/// Returns a command as the log holds it.
pub fn encode_command(command: &Command) -> Result<Vec<u8>, postcard::Error> {
    postcard::to_extend(command, vec![COMMAND_VERSION])
}

/// Returns a command as the log holds it, with the address of who asked for it.
pub fn encode_addressed(command: &Command, address: Option<&str>) -> Result<Vec<u8>, postcard::Error> {
    match address {
        None => encode_command(command),
        Some(address) => postcard::to_extend(&(address, command), vec![ADDRESSED_VERSION]),
    }
}

/// Reads a command.
///
/// # Errors
/// When its version or form is not known; that is refused loudly and never skipped.
pub fn decode_command(bytes: &[u8]) -> Result<Command, Refusal> {
    decode_addressed(bytes).map(|(_, command)| command)
}

/// Reads a command and the address of who asked for it, where that is known.
///
/// # Errors
/// As [`decode_command`].
pub fn decode_addressed(bytes: &[u8]) -> Result<(Option<String>, Command), Refusal> {
    let refuse = |message: String| {
        Refusal::new(FailureKind::Unsupported, message, "run one version of the program on all coordinators")
    };
    let undecoded = |error: postcard::Error| refuse(format!("a command of the log does not decode: {error}"));
    match bytes.split_first() {
        Some((&COMMAND_VERSION, body)) => {
            postcard::from_bytes(body).map(|command| (None, command)).map_err(undecoded)
        }
        Some((&ADDRESSED_VERSION, body)) => postcard::from_bytes::<(String, Command)>(body)
            .map(|(address, command)| (Some(address), command))
            .map_err(undecoded),
        Some((version, _)) => Err(refuse(format!(
            "a command of the log was written by a newer version of the program: its format is {version}, and this one reads up to {ADDRESSED_VERSION}"
        ))),
        None => Err(refuse("a command of the log is empty".to_owned())),
    }
}

/// Writes the state.
///
/// # Errors
/// When writing fails.
pub fn write(state: &State, to: &mut dyn Write) -> Result<(), SnapshotError> {
    let mut frames = FrameWriter { to, hasher: blake3::Hasher::new(), count: 0 };
    frames.raw(MAGIC)?;
    frames.raw(&[SNAPSHOT_VERSION])?;
    frames.frame(Tag::Cluster, state.cluster.as_ref())?;
    for (tenant, name, host) in state.hosts.table().all() {
        frames.frame(Tag::Host, &(tenant, name, host))?;
    }
    for (tenant, name, voided) in state.hosts.voided().all() {
        frames.frame(Tag::Voided, &(tenant, name, voided))?;
    }
    for (tenant, name, limits) in state.migrations.host_limits.all() {
        frames.frame(Tag::HostLimits, &(tenant, name, LimitsText(limits.as_ref().clone())))?;
    }
    for (_, _, migration) in state.migrations.table().all() {
        match &migration.condensed {
            None => frames.frame(Tag::Migration, migration)?,
            Some(view) => frames.frame(Tag::CondensedMigration, &(migration, ViewText(Arc::clone(view))))?,
        }
        if migration.control != Control::default() {
            let control = ControlText(migration.control.clone());
            frames.frame(Tag::Control, &(&migration.tenant, &migration.id, control))?;
        }
    }
    for (tenant, host, number) in state.outboxes.table().all() {
        frames.frame(Tag::Outbox, &(tenant, host, **number))?;
    }
    frames.frame(Tag::Audit, &(state.audit.head(), state.audit.count()))?;
    for page in state.audit.pages() {
        frames.frame(Tag::AuditPage, page)?;
    }
    for line in state.audit.lines() {
        frames.frame(Tag::AuditLine, line.as_ref())?;
    }
    frames.frame(Tag::Pieces, &state.pieces)?;
    for (tenant, name, record) in state.secrets.all() {
        frames.frame(Tag::Secret, &(SECRET_VERSION, tenant, name, record))?;
    }
    for (tenant, name, labels) in state.secrets.labels().all() {
        frames.frame(Tag::SecretLabels, &(SECRET_VERSION, tenant, name, labels))?;
    }
    frames.frame(Tag::NextKey, &(SECRET_VERSION, state.secrets.next_key()))?;
    frames.frame(Tag::KeptFrom, &(SECRET_VERSION, state.secrets.kept_from()))?;
    for (index, request) in state.requests.all() {
        frames.frame(Tag::Request, &(index, request))?;
    }
    write_access(state, &mut frames)?;
    frames.end()
}

/// Writes who may do what.
fn write_access(state: &State, frames: &mut FrameWriter<'_>) -> Result<(), SnapshotError> {
    for (name, tenant) in state.access.tenants() {
        frames.frame(Tag::Tenant, &(name, tenant))?;
    }
    for (tenant, name, user) in state.access.users().all() {
        frames.frame(Tag::User, &(tenant, name, user))?;
    }
    for (tenant, id, key) in state.access.keys().all() {
        frames.frame(Tag::Key, &(tenant, id, key))?;
    }
    for (tenant, host, labels) in state.access.labels().all() {
        frames.frame(Tag::Labels, &(tenant, host, labels))?;
    }
    Ok(())
}

/// Reads a state.
///
/// # Errors
/// When it is cut, altered, or of a version that is not known.
pub fn read(from: &mut dyn Read) -> Result<State, SnapshotError> {
    let mut frames = FrameReader { from, hasher: blake3::Hasher::new(), count: 0 };
    let mut start = [0; MAGIC.len() + 1];
    frames.raw(&mut start)?;
    if start[..MAGIC.len()] != MAGIC[..] {
        return Err(SnapshotError::Damaged("it does not begin like a snapshot"));
    }
    if !(SNAPSHOT_VERSION_MIN..=SNAPSHOT_VERSION).contains(&start[MAGIC.len()]) {
        return Err(SnapshotError::Version(start[MAGIC.len()]));
    }
    let mut state = State::default();
    loop {
        let (tag, bytes) = frames.frame()?;
        match tag {
            Tag::Cluster => state.cluster = std::sync::Arc::new(postcard::from_bytes::<Cluster>(&bytes)?),
            Tag::Host => {
                let (tenant, name, host): (TenantId, HostName, Host) = postcard::from_bytes(&bytes)?;
                state.hosts.table_mut().insert(&tenant, name, host);
            }
            Tag::Voided => {
                let (tenant, name, voided): (TenantId, HostName, Voided) = postcard::from_bytes(&bytes)?;
                state.hosts.voided_mut().insert(&tenant, name, voided);
            }
            Tag::HostLimits => {
                let (tenant, name, limits): (TenantId, HostName, LimitsText) = postcard::from_bytes(&bytes)?;
                state.migrations.put_host_limits(&tenant, name, limits.0);
            }
            Tag::Migration | Tag::CondensedMigration | Tag::Control => {
                read_migration(&mut state, tag, &bytes)?;
            }
            Tag::Outbox => {
                let (tenant, host, number): (TenantId, HostName, u64) = postcard::from_bytes(&bytes)?;
                state.outboxes.take(&tenant, &host, number);
            }
            Tag::AuditV1 => state.audit = rechained(&state.cluster, &postcard::from_bytes(&bytes)?)?,
            Tag::Audit => {
                let (head, count): (Digest, u64) = postcard::from_bytes(&bytes)?;
                state.audit.restore(head, count);
            }
            Tag::AuditPage => state.audit.restore_page(postcard::from_bytes::<Page>(&bytes)?),
            Tag::AuditLine => state.audit.restore_line(postcard::from_bytes::<Line>(&bytes)?),
            Tag::Pieces => state.pieces = postcard::from_bytes::<Pieces>(&bytes)?,
            Tag::User => {
                let (tenant, name, user): (TenantId, OperatorName, User) = postcard::from_bytes(&bytes)?;
                state.access.put_user(&tenant, name, user);
            }
            Tag::Key => {
                let (tenant, id, key): (TenantId, KeyId, Key) = postcard::from_bytes(&bytes)?;
                state.access.put_key(&tenant, id, key);
            }
            Tag::Tenant => {
                let (name, tenant): (TenantId, Tenant) = postcard::from_bytes(&bytes)?;
                state.migrations.set_limit(name.clone(), tenant.migrations_max);
                state.access.put_tenant(name, tenant);
            }
            Tag::Labels => {
                let (tenant, host, labels): (TenantId, HostName, Labels) = postcard::from_bytes(&bytes)?;
                state.access.put_labels(&tenant, host, labels);
            }
            Tag::Secret | Tag::SecretLabels | Tag::NextKey | Tag::KeptFrom => {
                read_secret(&mut state, tag, &bytes)?;
            }
            Tag::Request => {
                let (index, request): (u64, [u8; 32]) = postcard::from_bytes(&bytes)?;
                state.requests.note(index, request);
            }
            Tag::End => return frames.end().map(|()| state),
        }
    }
}

/// Reads what belongs to migrations.
fn read_migration(state: &mut State, tag: Tag, bytes: &[u8]) -> Result<(), SnapshotError> {
    let migration = match tag {
        Tag::CondensedMigration => {
            let (migration, view): (Migration, ViewText) = postcard::from_bytes(bytes)?;
            Migration { condensed: Some(view.0), ..migration }
        }
        Tag::Control => {
            let (tenant, id, control): (TenantId, MigrationId, ControlText) = postcard::from_bytes(bytes)?;
            let absent = SnapshotError::Damaged("what was said of a migration stands before it");
            let found = state.migrations.get(&tenant, &id).ok_or(absent)?;
            Migration { control: control.0, ..found.as_ref().clone() }
        }
        _ => postcard::from_bytes::<Migration>(bytes)?,
    };
    state.migrations.put(migration);
    Ok(())
}

/// Reads what belongs to secrets.
fn read_secret(state: &mut State, tag: Tag, bytes: &[u8]) -> Result<(), SnapshotError> {
    match tag {
        Tag::SecretLabels => {
            let (version, tenant, name, labels): (u8, TenantId, SecretName, Labels) =
                postcard::from_bytes(bytes)?;
            check_secret_version(version)?;
            state.secrets.put_labels(&tenant, name, labels);
        }
        Tag::NextKey => {
            let (version, key): (u8, Option<secret::NextKey>) = postcard::from_bytes(bytes)?;
            check_secret_version(version)?;
            state.secrets.put_next_key(key);
        }
        Tag::KeptFrom => {
            let (version, key): (u8, Option<[u8; 8]>) = postcard::from_bytes(bytes)?;
            check_secret_version(version)?;
            state.secrets.put_kept_from(key);
        }
        _ => {
            let (version, tenant, name, record): (u8, TenantId, SecretName, secret::Record) =
                postcard::from_bytes(bytes)?;
            check_secret_version(version)?;
            state.secrets.put(&tenant, name, record);
        }
    }
    Ok(())
}

/// Returns the audit of a snapshot of the first version, chained anew as replaying its log would.
fn rechained(cluster: &Cluster, audit: &AuditV1) -> Result<Audit, SnapshotError> {
    let message =
        "it holds an audit of a first version that has lost lines already, which cannot be chained anew";
    let Some(node) = cluster.nodes.keys().next() else { return Ok(Audit::default()) };
    audit.rechained(&cluster.ca_key, node).ok_or(SnapshotError::Damaged(message))
}

fn check_secret_version(version: u8) -> Result<(), SnapshotError> {
    let is_known = version == SECRET_VERSION;
    if is_known { Ok(()) } else { Err(SnapshotError::Damaged("a secret of a version that is not known")) }
}

struct FrameWriter<'a> {
    to: &'a mut dyn Write,
    hasher: blake3::Hasher,
    count: u64,
}

impl FrameWriter<'_> {
    fn raw(&mut self, bytes: &[u8]) -> Result<(), SnapshotError> {
        self.hasher.update(bytes);
        self.to.write_all(bytes)?;
        Ok(())
    }

    fn frame(&mut self, tag: Tag, record: &impl Serialize) -> Result<(), SnapshotError> {
        let bytes = postcard::to_stdvec(record)?;
        // What cannot be read again must not take the place of the snapshot before.
        let length = u32::try_from(bytes.len()).ok().filter(|length| *length <= FRAME_BYTES_MAX);
        let length = length.ok_or(SnapshotError::Damaged("a record is too large"))?;
        self.raw(&[tag as u8])?;
        self.raw(&length.to_le_bytes())?;
        self.raw(&bytes)?;
        self.count += 1;
        Ok(())
    }

    fn end(&mut self) -> Result<(), SnapshotError> {
        let digest = *self.hasher.finalize().as_bytes();
        let count = self.count;
        self.frame(Tag::End, &(count, digest))
    }
}

struct FrameReader<'a> {
    from: &'a mut dyn Read,
    hasher: blake3::Hasher,
    count: u64,
}

impl FrameReader<'_> {
    fn raw(&mut self, bytes: &mut [u8]) -> Result<(), SnapshotError> {
        self.from.read_exact(bytes)?;
        self.hasher.update(bytes);
        Ok(())
    }

    fn frame(&mut self) -> Result<(Tag, Vec<u8>), SnapshotError> {
        let digest = *self.hasher.finalize().as_bytes();
        let mut head = [0; 5];
        self.raw(&mut head)?;
        let tag = Tag::of(head[0]).ok_or(SnapshotError::Damaged("a frame of a kind that is not known"))?;
        let length = u32::from_le_bytes([head[1], head[2], head[3], head[4]]);
        if length > FRAME_BYTES_MAX {
            return Err(SnapshotError::Damaged("a frame is too large"));
        }
        let mut bytes = vec![0; usize::try_from(length).unwrap_or(0)];
        self.raw(&mut bytes)?;
        if tag == Tag::End {
            let expected: (u64, [u8; 32]) = decode(&bytes)?;
            if expected != (self.count, digest) {
                return Err(SnapshotError::Damaged("its digest differs"));
            }
        }
        self.count += 1;
        Ok((tag, bytes))
    }

    fn end(&mut self) -> Result<(), SnapshotError> {
        match self.from.read_exact(&mut [0]) {
            Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => Ok(()),
            Err(error) => Err(error.into()),
            Ok(()) => Err(SnapshotError::Damaged("something stands behind its end")),
        }
    }
}

fn decode<T: DeserializeOwned>(bytes: &[u8]) -> Result<T, SnapshotError> {
    Ok(postcard::from_bytes(bytes)?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_could_not_be_read_again_is_not_written() {
        let mut written = Vec::new();
        let mut frames = FrameWriter { to: &mut written, hasher: blake3::Hasher::new(), count: 0 };
        frames.frame(Tag::Pieces, &vec![7_u8; 1 << 20]).unwrap();
        let largest = usize::try_from(FRAME_BYTES_MAX).unwrap();
        assert!(matches!(frames.frame(Tag::Pieces, &vec![7_u8; largest]), Err(SnapshotError::Damaged(_))));
    }
}
