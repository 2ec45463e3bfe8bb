//! Secrets, sealed. Pure: nothing here can open one.
//!
//! A secret is keyed by tenant and name and has versions. The newest is what a migration that begins now gets; the one
//! before it stays, for those that began with it. The head of an envelope holds the wrapped data key, and only that is
//! changed when the cluster key is: the body stays as it was sealed. A name that was deleted remembers its last
//! version, so that no version is ever sealed twice.

use std::sync::Arc;

use common::clock::WallMs;
use common::failure::FailureKind;
use common::grant::{LABELS_MAX, Labels};
use common::id::{SecretName, TenantId};
use common::limit::SECRET_BYTES_MAX;
use common::view::SecretView;
use serde::{Deserialize, Serialize};

use super::Applied;
use super::Outcome;
use super::effect::Effect;
use super::refusal::Refusal;
use super::request_id;
use super::stamp::Stamp;
use super::table::Table;

/// Secrets of one tenant; each is in the memory of every node.
const SECRETS_MAX: usize = 2_000;
/// Bytes of all secrets of one tenant.
const TENANT_BYTES_MAX: usize = 64 * 1024 * 1024;
/// Names that a tenant has deleted and that are remembered; beyond, the one that was deleted first is forgotten.
const DELETED_MAX: usize = 10_000;
/// Versions of a secret: the newest, and the one that running migrations may have begun with.
const VERSIONS_MAX: usize = 2;
/// Heads in one command of [`Command::Rewrap`], about 200 bytes each.
pub const REWRAPS_MAX: usize = 200;
/// What sealing adds to a value.
const BODY_OVERHEAD_BYTES: usize = 64;
/// The longest head of an envelope.
const HEAD_BYTES_MAX: usize = 128;

/// All secrets, and the cluster key that is on its way.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Secrets {
    table: Table<SecretName, Record>,
    labels: Table<SecretName, Labels>,
    next_key: Option<Arc<NextKey>>,
    kept_from: Option<[u8; 8]>,
}

/// One secret.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Record {
    /// When it was first made.
    pub created: WallMs,
    /// Who made it.
    pub principal: String,
    /// The number of its last version, also of one that was deleted.
    pub last: u32,
    /// When it was deleted or last set.
    pub changed: WallMs,
    /// Oldest first; empty once it was deleted.
    pub versions: Vec<Version>,
}

/// One version of a secret.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Version {
    /// Counts the versions of the name, from 1.
    pub number: u32,
    /// When it was set.
    pub set: WallMs,
    /// Who set it.
    pub principal: String,
    /// By which request.
    pub request_id: String,
    /// The head of its envelope: the wrapped data key.
    pub head: Vec<u8>,
    /// The body: the sealed value.
    pub body: Arc<Vec<u8>>,
}

/// A cluster key that nodes shall take up before anything is sealed under it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct NextKey {
    /// Its id.
    pub id: [u8; 8],
    /// The key itself, sealed under the present one.
    pub envelope: Vec<u8>,
}

/// What can be asked of secrets.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Command {
    /// Makes a secret or its next version.
    Set {
        /// Whose.
        tenant: TenantId,
        /// Which.
        name: SecretName,
        /// The version that it was sealed as: one after the last.
        version: u32,
        /// Whether it must exist already.
        must_exist: bool,
        /// Made by the caller.
        request_id: String,
        /// The head of its envelope.
        head: Vec<u8>,
        /// The body.
        body: Vec<u8>,
    },
    /// Removes a secret with all its versions.
    Delete {
        /// Whose.
        tenant: TenantId,
        /// Which.
        name: SecretName,
    },
    /// Replaces heads by those under another cluster key; the bodies stay. What changed meanwhile is passed over.
    Rewrap(Vec<Rewrapped>),
    /// Tells nodes of the next cluster key.
    NextKey(NextKey),
    /// Makes another cluster key the present one: its authority's key is sealed under it from now on.
    UseKey {
        /// The authority's key in its new envelope.
        ca_key: Vec<u8>,
        /// The envelope that it takes the place of.
        before: Vec<u8>,
    },
    /// Forgets the key that was next; every node has it by itself. What versions before [`Self::DropOldKeys`] asked for.
    ForgetNextKey,
    /// Labels a secret, in the place of all labels that it had.
    Label {
        /// Whose.
        tenant: TenantId,
        /// Which.
        name: SecretName,
        /// With what.
        labels: Labels,
    },
    /// Has every node forget the keys before the present one.
    DropOldKeys {
        /// The id of the key that was the present one when this was asked.
        present: [u8; 8],
    },
}

/// The new head of one version.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Rewrapped {
    /// Whose.
    pub tenant: TenantId,
    /// Which secret.
    pub name: SecretName,
    /// Which version.
    pub version: u32,
    /// The head that it was made from.
    pub before: Vec<u8>,
    /// The head that takes its place.
    pub after: Vec<u8>,
}

impl Command {
    /// Returns what is written into the audit for it; none for what no principal decides.
    pub(super) fn action(&self) -> Option<&'static str> {
        match self {
            Self::Set { version: 1, .. } => Some("secret.set"),
            Self::Set { .. } => Some("secret.rotate"),
            Self::Delete { .. } => Some("secret.delete"),
            Self::UseKey { .. } => Some("cluster_key.rotate"),
            Self::ForgetNextKey | Self::DropOldKeys { .. } => Some("cluster_key.drop"),
            Self::Label { .. } => Some("secret.label"),
            Self::Rewrap(_) | Self::NextKey(_) => None,
        }
    }
}

impl Record {
    /// Returns the newest version; none once the secret was deleted.
    pub fn newest(&self) -> Option<&Version> {
        self.versions.last()
    }

    /// Returns a version.
    pub fn version(&self, number: u32) -> Option<&Version> {
        self.versions.iter().find(|version| version.number == number)
    }

    /// Returns what may be told of it; none once it was deleted.
    fn view(&self, name: &SecretName, labels: Labels) -> Option<SecretView> {
        let newest = self.newest()?;
        let key = key_of(&newest.head).unwrap_or_default();
        Some(SecretView {
            name: name.clone(),
            version: newest.number,
            versions: self.versions.iter().map(|version| version.number).collect(),
            created: self.created,
            set: newest.set,
            set_by: newest.principal.clone(),
            cluster_key: key.iter().map(|byte| format!("{byte:02x}")).collect(),
            labels,
        })
    }

    fn bytes(&self) -> usize {
        self.versions.iter().map(|version| version.body.len()).sum()
    }
}

impl Secrets {
    /// Returns a secret; one that was deleted is absent.
    pub fn get(&self, tenant: &TenantId, name: &SecretName) -> Option<&Arc<Record>> {
        self.table.get(tenant, name).filter(|record| !record.versions.is_empty())
    }

    /// Returns what may be told of a secret; none when there is none.
    pub fn view(&self, tenant: &TenantId, name: &SecretName) -> Option<SecretView> {
        self.get(tenant, name)?.view(name, self.labels_of(tenant, name))
    }

    /// Returns the labels of secrets that have some.
    pub fn labels(&self) -> &Table<SecretName, Labels> {
        &self.labels
    }

    /// Returns the labels of a secret.
    pub fn labels_of(&self, tenant: &TenantId, name: &SecretName) -> Labels {
        self.labels.get(tenant, name).map(|labels| labels.as_ref().clone()).unwrap_or_default()
    }

    /// Returns the number that the next version of a name gets.
    pub fn next_version(&self, tenant: &TenantId, name: &SecretName) -> u32 {
        self.table.get(tenant, name).map_or(1, |record| record.last.saturating_add(1))
    }

    /// Returns what may be told of a tenant's secrets that come after a name.
    pub fn views<'a>(
        &'a self,
        tenant: &'a TenantId,
        after: Option<&'a SecretName>,
    ) -> impl Iterator<Item = SecretView> + 'a {
        let is_after = move |name: &SecretName| after.is_none_or(|after| name > after);
        self.table
            .of_tenant(tenant)
            .filter(move |(name, _)| is_after(name))
            .filter_map(|(name, record)| record.view(name, self.labels_of(tenant, name)))
    }

    /// Returns all records; for re-wrapping and snapshots.
    pub fn all(&self) -> impl Iterator<Item = (&TenantId, &SecretName, &Arc<Record>)> {
        self.table.all()
    }

    /// Returns the cluster key that is on its way.
    pub fn next_key(&self) -> Option<&NextKey> {
        self.next_key.as_deref()
    }

    /// Puts a record of a snapshot in its place.
    pub(super) fn put(&mut self, tenant: &TenantId, name: SecretName, record: Record) {
        self.table.insert(tenant, name, record);
    }

    /// Puts labels; an empty set is no record.
    pub(super) fn put_labels(&mut self, tenant: &TenantId, name: SecretName, labels: Labels) {
        if labels.is_empty() {
            self.labels.remove(tenant, &name);
        } else {
            self.labels.insert(tenant, name, labels);
        }
    }

    /// Puts the next key of a snapshot in its place.
    pub(super) fn put_next_key(&mut self, key: Option<NextKey>) {
        self.next_key = key.map(Arc::new);
    }

    /// Returns the id of the oldest cluster key that nodes keep; those before it are dropped. None while none ever was.
    pub fn kept_from(&self) -> Option<[u8; 8]> {
        self.kept_from
    }

    /// Puts the oldest key of a snapshot in its place.
    pub(super) fn put_kept_from(&mut self, key: Option<[u8; 8]>) {
        self.kept_from = key;
    }

    /// Refuses what is sealed under a key that nodes have dropped, or are about to: it could never be opened.
    pub(super) fn check_key(&self, head: &[u8], present: Option<[u8; 8]>) -> Result<(), Refusal> {
        if self.kept_from.is_none() || self.kept_from != present || key_of(head) == present {
            return Ok(());
        }
        let message = "the cluster key was rotated, and the old one dropped, at the same moment";
        Err(Refusal::new(FailureKind::Conflict, message, "ask again"))
    }

    /// Lets nodes drop the keys before the present one, once nothing is sealed under them.
    pub(super) fn drop_old_keys(&mut self, asked: [u8; 8], present: Option<[u8; 8]>) -> Result<(), Refusal> {
        let hint = "drop the old keys again: `ctl cluster rotate-key --drop-old`";
        if present != Some(asked) {
            let message = "the cluster key was rotated at the same moment";
            return Err(Refusal::new(FailureKind::Conflict, message, hint));
        }
        let is_elsewhere = |version: &Version| key_of(&version.head) != present;
        if self.all().any(|(_, _, record)| record.versions.iter().any(is_elsewhere)) {
            let message = "a secret is still sealed under another cluster key";
            return Err(Refusal::new(FailureKind::Conflict, message, hint));
        }
        // One that is on its way stays: the next rotation goes on with it.
        self.end_rotation(present);
        self.kept_from = present;
        Ok(())
    }

    /// Forgets the key that was next if it is the present one by now: every node keeps it since before it was used.
    pub(super) fn end_rotation(&mut self, present: Option<[u8; 8]>) {
        if self.next_key.as_ref().is_some_and(|next| Some(next.id) == present) {
            self.next_key = None;
        }
    }

    /// Applies a command, but for what the cluster's record has to do with it: which key is the present one.
    pub(super) fn apply(&mut self, stamp: &Stamp, command: Command) -> Result<Applied, Refusal> {
        match command {
            Command::Set { tenant, name, version, must_exist, request_id, head, body } => {
                let set = Version {
                    number: version,
                    set: stamp.wall,
                    principal: stamp.principal.to_string(),
                    request_id,
                    head,
                    body: Arc::new(body),
                };
                self.set(&tenant, name, set, must_exist)
            }
            Command::Delete { tenant, name } => self.delete(stamp, &tenant, name),
            Command::Rewrap(rewrapped) => {
                rewrapped.into_iter().for_each(|one| self.rewrap(one));
                Ok(Applied::done())
            }
            Command::NextKey(key) => {
                if self.next_key.as_ref().is_some_and(|next| next.id != key.id) {
                    let hint = "let that one end first: `ctl cluster rotate-key` goes on with it";
                    let message = "another rotation of the cluster key is under way";
                    return Err(Refusal::new(FailureKind::Conflict, message, hint));
                }
                self.next_key = Some(Arc::new(key));
                Ok(Applied::done().effect(Effect::NodesChanged))
            }
            Command::UseKey { .. } | Command::DropOldKeys { .. } => Ok(Applied::done()),
            Command::ForgetNextKey => {
                self.next_key = None;
                Ok(Applied::done())
            }
            Command::Label { tenant, name, labels } => {
                if self.get(&tenant, &name).is_none() {
                    return Err(Refusal::absent("secret", &name));
                }
                if labels.len() > LABELS_MAX {
                    let message = format!("a secret bears at most {LABELS_MAX} labels");
                    return Err(Refusal::new(FailureKind::Invalid, message, "remove some first"));
                }
                self.put_labels(&tenant, name, labels);
                Ok(Applied::done())
            }
        }
    }

    fn set(
        &mut self,
        tenant: &TenantId,
        name: SecretName,
        version: Version,
        must_exist: bool,
    ) -> Result<Applied, Refusal> {
        request_id::check(&version.request_id)?;
        let known = self.table.get(tenant, &name);
        let newest = known.and_then(|record| record.newest());
        if let Some(newest) = newest.filter(|newest| newest.request_id == version.request_id) {
            return Ok(Applied::new(Outcome::SecretSet { version: newest.number }));
        }
        if must_exist && newest.is_none() {
            return Err(Refusal::absent("secret", &name));
        }
        if version.number != self.next_version(tenant, &name) {
            let message = format!("the secret `{name}` was set by somebody else at the same moment");
            return Err(Refusal::new(
                FailureKind::Conflict,
                message,
                "look at `ctl secret list`, then set it again",
            ));
        }
        self.check_room(tenant, newest.is_none(), &version)?;
        let mut record = known.map_or_else(
            || Record {
                created: version.set,
                principal: version.principal.clone(),
                last: 0,
                changed: version.set,
                versions: Vec::new(),
            },
            |record| Record::clone(record),
        );
        if record.versions.is_empty() {
            record.created = version.set;
            record.principal.clone_from(&version.principal);
        }
        let number = version.number;
        (record.last, record.changed) = (number, version.set);
        record.versions.push(version);
        if record.versions.len() > VERSIONS_MAX {
            record.versions.remove(0);
        }
        self.table.insert(tenant, name, record);
        Ok(Applied::new(Outcome::SecretSet { version: number }))
    }

    fn check_room(&self, tenant: &TenantId, is_new: bool, version: &Version) -> Result<(), Refusal> {
        if version.body.len() > SECRET_BYTES_MAX + BODY_OVERHEAD_BYTES || version.head.len() > HEAD_BYTES_MAX
        {
            let message = format!("a secret holds at most {SECRET_BYTES_MAX} bytes");
            return Err(Refusal::new(FailureKind::Invalid, message, "keep larger things in files"));
        }
        let live = || self.table.of_tenant(tenant).filter(|(_, record)| !record.versions.is_empty());
        if is_new && live().count() >= SECRETS_MAX {
            let message = format!("tenant `{tenant}` has {SECRETS_MAX} secrets, which is the most");
            return Err(Refusal::new(
                FailureKind::Exhausted,
                message,
                "delete some with `ctl secret delete`",
            ));
        }
        let bytes: usize = live().map(|(_, record)| record.bytes()).sum();
        if bytes + version.body.len() > TENANT_BYTES_MAX {
            let message =
                format!("the secrets of tenant `{tenant}` would take more than {TENANT_BYTES_MAX} bytes");
            return Err(Refusal::new(
                FailureKind::Exhausted,
                message,
                "delete some with `ctl secret delete`",
            ));
        }
        Ok(())
    }

    fn delete(&mut self, stamp: &Stamp, tenant: &TenantId, name: SecretName) -> Result<Applied, Refusal> {
        let record = self.get(tenant, &name).ok_or_else(|| Refusal::absent("secret", &name))?;
        let left = Record { changed: stamp.wall, versions: Vec::new(), ..Record::clone(record) };
        // Another secret of this name is in nobody's scope until somebody says so.
        self.labels.remove(tenant, &name);
        self.table.insert(tenant, name, left);
        let deleted = || self.table.of_tenant(tenant).filter(|(_, record)| record.versions.is_empty());
        if deleted().count() > DELETED_MAX {
            let first = deleted().min_by_key(|(name, record)| (record.changed, (*name).clone()));
            if let Some(first) = first.map(|(name, _)| name.clone()) {
                self.table.remove(tenant, &first);
            }
        }
        Ok(Applied::done())
    }

    fn rewrap(&mut self, one: Rewrapped) {
        let Rewrapped { tenant, name, version, before, after } = one;
        let Some(record) = self.table.get(&tenant, &name) else { return };
        if after.len() > HEAD_BYTES_MAX
            || record.version(version).is_none_or(|version| version.head != before)
        {
            return;
        }
        let mut record = Record::clone(record);
        for known in record.versions.iter_mut().filter(|known| known.number == version) {
            known.head.clone_from(&after);
        }
        self.table.insert(&tenant, name, record);
    }
}

/// Returns the id of the cluster key that a head names, behind the version of its envelope.
fn key_of(head: &[u8]) -> Option<[u8; 8]> {
    head.get(1..9)?.try_into().ok()
}

#[cfg(test)]
mod tests {
    use super::super::{Command as StateCommand, sample};
    use super::*;

    fn set(log: &mut sample::Log, name: &str, version: u32, request: &str) -> Result<Outcome, Refusal> {
        set_under(log, name, version, request, 1)
    }

    /// Sets a secret that is sealed under the key whose id is this byte eight times.
    fn set_under(
        log: &mut sample::Log,
        name: &str,
        version: u32,
        request: &str,
        key: u8,
    ) -> Result<Outcome, Refusal> {
        let command = Command::Set {
            tenant: sample::tenant(),
            name: name.parse().unwrap(),
            version,
            must_exist: false,
            request_id: request.to_owned(),
            head: vec![key; 81],
            body: vec![7; 100],
        };
        log.apply(sample::operator(), StateCommand::Secret(command)).map(|applied| applied.outcome)
    }

    fn versions(log: &sample::Log, name: &str) -> Vec<u32> {
        let record = log.state.secrets().get(&sample::tenant(), &name.parse().unwrap());
        record
            .map(|record| record.versions.iter().map(|version| version.number).collect())
            .unwrap_or_default()
    }

    fn delete(log: &mut sample::Log, name: &str) -> Result<Applied, Refusal> {
        let command = Command::Delete { tenant: sample::tenant(), name: name.parse().unwrap() };
        log.apply(sample::operator(), StateCommand::Secret(command))
    }

    #[test]
    fn a_new_version_keeps_the_one_before_it_and_no_number_comes_twice() {
        let mut log = sample::Log::new();
        assert_eq!(set(&mut log, "a", 1, "r1"), Ok(Outcome::SecretSet { version: 1 }));
        assert_eq!(set(&mut log, "a", 2, "r1"), Ok(Outcome::SecretSet { version: 1 }), "a repeated request");
        assert_eq!(set(&mut log, "a", 1, "r2").unwrap_err().failure().kind, FailureKind::Conflict);
        set(&mut log, "a", 2, "r2").unwrap();
        set(&mut log, "a", 3, "r3").unwrap();
        assert_eq!(versions(&log, "a"), [2, 3]);
        delete(&mut log, "a").unwrap();
        assert_eq!(versions(&log, "a"), Vec::<u32>::new());
        assert_eq!(delete(&mut log, "a").unwrap_err().failure().kind, FailureKind::NotFound);
        assert!(set(&mut log, "a", 1, "r4").is_err(), "a version is never sealed twice");
        set(&mut log, "a", 4, "r5").unwrap();
    }

    #[test]
    fn labels_are_of_one_secret_and_end_with_it() {
        let mut log = sample::Log::new();
        let labels: Labels = [("team".parse().unwrap(), "shop".parse().unwrap())].into();
        let label = |log: &mut sample::Log, name: &str, labels: &Labels| {
            let (name, labels) = (name.parse().unwrap(), labels.clone());
            let command = Command::Label { tenant: sample::tenant(), name, labels };
            log.apply(sample::operator(), StateCommand::Secret(command))
        };
        let bears =
            |log: &sample::Log| log.state.secrets().labels_of(&sample::tenant(), &"a".parse().unwrap());
        let absent = label(&mut log, "a", &labels).unwrap_err();
        assert_eq!(absent.failure().kind, FailureKind::NotFound);
        set(&mut log, "a", 1, "r1").unwrap();
        label(&mut log, "a", &labels).unwrap();
        set(&mut log, "a", 2, "r2").unwrap();
        assert_eq!(bears(&log), labels, "the next version bears them too");
        let many: Labels =
            (0..=LABELS_MAX).map(|n| (format!("k{n}").parse().unwrap(), "v".parse().unwrap())).collect();
        assert!(label(&mut log, "a", &many).is_err());
        delete(&mut log, "a").unwrap();
        set(&mut log, "a", 3, "r3").unwrap();
        assert_eq!(bears(&log), Labels::new());
    }

    #[test]
    fn a_request_without_a_usable_id_sets_nothing() {
        let mut log = sample::Log::new();
        for id in ["", "x".repeat(129).as_str()] {
            assert_eq!(set(&mut log, "a", 1, id).unwrap_err().failure().kind, FailureKind::Invalid);
        }
        assert_eq!(versions(&log, "a"), Vec::<u32>::new());
        set(&mut log, "a", 1, &"x".repeat(128)).unwrap();
    }

    #[test]
    fn another_tenant_sees_and_changes_nothing() {
        let mut log = sample::Log::new();
        set(&mut log, "a", 1, "r1").unwrap();
        let other: TenantId = "other".parse().unwrap();
        assert!(log.state.secrets().get(&other, &"a".parse().unwrap()).is_none());
        assert_eq!(log.state.secrets().views(&other, None).count(), 0);
        let foreign = common::principal::Principal::Person { tenant: other, name: "x".to_owned() };
        let command = Command::Delete { tenant: sample::tenant(), name: "a".parse().unwrap() };
        let refused = log.apply(foreign, StateCommand::Secret(command)).unwrap_err();
        assert_eq!(refused.failure().kind, FailureKind::NotFound);
        assert_eq!(versions(&log, "a"), [1]);
    }

    #[test]
    fn old_keys_go_when_nothing_is_under_them_and_never_the_present_one() {
        let mut log = sample::Log::new();
        let kind = |result: Result<Applied, Refusal>| result.err().map(|refusal| refusal.failure().kind);
        let apply = |log: &mut sample::Log, command| log.apply(sample::node(), StateCommand::Secret(command));
        let present = |log: &mut sample::Log, key: u8| {
            let (before, ca_key) = (log.state.cluster().ca_key.clone(), vec![key; 81]);
            apply(log, Command::UseKey { ca_key, before }).unwrap();
        };
        let drop_old =
            |log: &mut sample::Log, key: u8| kind(apply(log, Command::DropOldKeys { present: [key; 8] }));
        let rewrap = |log: &mut sample::Log, before: u8, after: u8| {
            let (before, after) = (vec![before; 81], vec![after; 81]);
            let name = "a".parse().unwrap();
            let one = Rewrapped { tenant: sample::tenant(), name, version: 1, before, after };
            kind(apply(log, Command::Rewrap(vec![one])))
        };
        let conflict = Some(FailureKind::Conflict);
        present(&mut log, 1);
        set(&mut log, "a", 1, "r1").unwrap();
        let told = |id: u8| Command::NextKey(NextKey { id: [id; 8], envelope: Vec::new() });
        apply(&mut log, told(2)).unwrap();
        present(&mut log, 2);
        assert_eq!(drop_old(&mut log, 2), conflict, "`a` is under the old key still");
        assert_eq!(rewrap(&mut log, 1, 2), None);
        assert_eq!(drop_old(&mut log, 1), conflict, "the key that was the present one when this was asked");
        apply(&mut log, told(3)).unwrap();
        assert_eq!(drop_old(&mut log, 2), None);
        assert_eq!(log.state.secrets().kept_from(), Some([2; 8]));
        assert_eq!(log.state.secrets().next_key().map(|key| key.id), Some([3; 8]), "a rotation goes on");
        // What was on its way under the old key comes too late.
        let late = set_under(&mut log, "b", 1, "r2", 1).unwrap_err();
        assert_eq!(late.failure().kind, FailureKind::Conflict);
        assert_eq!(rewrap(&mut log, 2, 1), conflict);
        set_under(&mut log, "b", 1, "r3", 2).unwrap();
        let mut bytes = Vec::new();
        crate::state::snapshot::write(&log.state, &mut bytes).unwrap();
        let read = crate::state::snapshot::read(&mut bytes.as_slice()).unwrap();
        assert_eq!(read.secrets(), log.state.secrets());
    }

    #[test]
    fn only_the_head_that_was_read_is_replaced() {
        let mut log = sample::Log::new();
        set(&mut log, "a", 1, "r1").unwrap();
        let mut rewrap = |before: u8, after: u8| {
            let one = Rewrapped {
                tenant: sample::tenant(),
                name: "a".parse().unwrap(),
                version: 1,
                before: vec![before; 81],
                after: vec![after; 81],
            };
            log.apply(sample::node(), StateCommand::Secret(Command::Rewrap(vec![one]))).unwrap();
            log.state.secrets().get(&sample::tenant(), &"a".parse().unwrap()).unwrap().versions[0].head[0]
        };
        assert_eq!(rewrap(9, 2), 1);
        assert_eq!(rewrap(1, 2), 2);
    }
}
