//! Whether what is to come will fit, as far as that is known before anything is written.
//!
//! Nothing that is there makes room: what is replaced or removed is kept until the migration is settled. So every entry
//! that is brought counts whole, on the file system and, with its subvolume or project, at the place where it comes. To
//! users and groups it counts what becomes theirs, less what is kept for them in the stage, which is root's. Everything
//! is counted as the least that it can take, so what is said not to fit does not fit.

use std::collections::BTreeMap;
use std::path::Path;

use common::finding::{Finding, Rule, Severity};
use common::human;
use common::rel_path::{RelPath, escape};
use sync::diff::{Difference, Found};
use sync::entry::Entry;
use tree::{Dir, Packing, Quota, QuotaOf, Quotas, RenameDomain, Root, Space};

use crate::account::Accounts;
use crate::domain::disk_id;
use crate::pull::data_of;
use crate::trouble::finding;

/// What the ledger takes for each entry that is brought, at least.
const RECORD_BYTES: u64 = 128;
/// Mounts, subvolumes and projects below the root that are told apart; further ones count to what is around them.
const PLACES_MAX: usize = 1000;
/// Inodes with several names that are counted; further ones are not.
const LINKED_MAX: usize = 100_000;
/// Users and groups that are counted; further ones are not.
const OWNERS_MAX: usize = 100_000;

/// What something takes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Needs {
    pub(crate) bytes: u64,
    pub(crate) inodes: u64,
}

impl Needs {
    /// Adds what something else takes.
    pub(crate) fn add(&mut self, other: Self) {
        self.bytes = self.bytes.saturating_add(other.bytes);
        self.inodes = self.inodes.saturating_add(other.inodes);
    }

    /// Returns what is left without something.
    pub(crate) fn less(self, other: Self) -> Self {
        Self {
            bytes: self.bytes.saturating_sub(other.bytes),
            inodes: self.inodes.saturating_sub(other.inodes),
        }
    }

    /// Says why a file system has too little room for this, if it has.
    pub(crate) fn too_much_for(self, space: &Space, packing: Packing) -> Option<String> {
        let free = if is_root() { space.bytes_free } else { space.bytes_available };
        if self.bytes > free && !packing.may_compress {
            let (needed, free) = (human::bytes(self.bytes), human::bytes(free));
            return Some(format!("at least {needed} are still to come and {free} are free"));
        }
        let free = space.inodes_free.filter(|free| self.inodes > *free)?;
        let needed = self.inodes;
        Some(format!("at least {needed} entries are still to be made and {free} inodes are free"))
    }

    fn too_much_for_quota(self, quota: &Quota) -> Option<String> {
        if let Some(left) = quota.bytes_left.filter(|left| self.bytes > *left) {
            let (needed, left) = (human::bytes(self.bytes), human::bytes(left));
            return Some(format!("at least {needed} are still to come and {left} are left"));
        }
        let left = quota.inodes_left.filter(|left| self.inodes > *left)?;
        let needed = self.inodes;
        Some(format!("at least {needed} entries are still to be made and {left} are left"))
    }
}

/// What each file system of a destination, and each place with a quota of its own, would have to take.
#[derive(Debug)]
pub(crate) struct Capacity {
    /// None while there is no root: then all counts to the directory in which it would be made.
    root: Option<Dir>,
    disks: Vec<Disk>,
    places: Vec<Place>,
    by_domain: BTreeMap<RenameDomain, PlaceId>,
    /// The directories above the one that is looked at, with their places.
    open: Vec<(RelPath, PlaceId)>,
    /// Inodes with several names; without needs those that stand there under one of them.
    linked: BTreeMap<(u64, u64), Option<Linked>>,
    /// Whether what the source lacks goes.
    deletes: bool,
}

/// Where something counts.
pub(crate) type PlaceId = usize;

/// The place of the root.
const HERE: PlaceId = 0;

#[derive(Debug)]
struct Disk {
    id: String,
    shown: RelPath,
    space: Space,
    packing: Packing,
    quotas: Quotas,
    needs: Needs,
    owners: BTreeMap<Owner, Balance>,
}

/// A rename domain: a mount, subvolume or project.
#[derive(Debug)]
struct Place {
    shown: RelPath,
    disk: usize,
    quotas: Vec<Quota>,
    needs: Needs,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Owner {
    User(u32),
    Group(u32),
}

/// What comes to somebody and what goes from him.
#[derive(Clone, Copy, Debug, Default)]
struct Balance {
    comes: Needs,
    goes: Needs,
}

#[derive(Clone, Copy, Debug)]
struct Linked {
    place: PlaceId,
    needs: Needs,
    uid: u32,
    gid: u32,
}

/// What does not fit.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Shortfall {
    path: RelPath,
    /// What is too small, and by how much.
    pub(crate) message: String,
    /// What to do.
    pub(crate) hint: String,
}

impl Capacity {
    /// Looks at the room there is for a root that is there or would be made.
    pub(crate) fn new(root: Option<&Root>, path: &Path, deletes: bool) -> Self {
        let above = || path.ancestors().find_map(|above| Root::open(above).ok());
        let mut capacity = Self {
            root: root.map(Root::dir),
            disks: Vec::new(),
            places: Vec::new(),
            by_domain: BTreeMap::new(),
            open: Vec::new(),
            linked: BTreeMap::new(),
            deletes,
        };
        if let Some(dir) = root.map(Root::dir).or_else(|| above().map(|root| root.dir())) {
            // What cannot be asked is told when it is written to.
            capacity.add_place(&RelPath::root(), &dir);
        }
        capacity
    }

    /// Begins with a directory; those above it came before.
    pub(crate) fn enter(&mut self, path: &RelPath, is_there: bool) {
        while self.open.last().is_some_and(|(above, _place)| !path.is_within(above)) {
            self.open.pop();
        }
        let around = self.here();
        let place = match &self.root {
            Some(root) if is_there => {
                root.open_beneath(path.as_bytes()).ok().and_then(|dir| self.add_place(path, &dir))
            }
            Some(_) | None => None,
        };
        self.open.push((path.clone(), place.unwrap_or(around)));
    }

    /// Returns the place of the directory that was entered last.
    pub(crate) fn here(&self) -> PlaceId {
        self.open.last().map_or(HERE, |(_path, place)| *place)
    }

    /// Counts an entry of that directory, as far as it needs no look at its content.
    pub(crate) fn found(&mut self, found: &Found) {
        let place = self.here();
        match found {
            Found::Missing { source } => self.bring(place, source),
            Found::Both { source, destination } => {
                let difference = Difference::between(source, destination);
                let is_directory = source.kind.is_directory();
                if difference.kind || (difference.needs_content() && !is_directory) {
                    self.bring(place, source);
                    self.free(place, destination);
                } else {
                    self.keep(place, source, destination);
                }
            }
            Found::Extra { destination } if self.deletes => self.free(place, destination),
            Found::Extra { .. } | Found::Unknown { .. } | Found::Problem { .. } => {}
        }
    }

    /// Counts an entry that would be made.
    pub(crate) fn bring(&mut self, place: PlaceId, source: &Entry) {
        let needs = self.needs_of(place, source);
        let Entry { uid, gid, .. } = *source;
        if !source.is_hard_link() {
            return self.add(place, needs, uid, gid);
        }
        // Its further names cost nothing, and one that stands there is linked.
        if self.linked.len() < LINKED_MAX {
            let inode = (source.dev, source.ino);
            self.linked.entry(inode).or_insert(Some(Linked { place, needs, uid, gid }));
        }
    }

    /// Counts an entry that stays, though it may become somebody else's.
    fn keep(&mut self, place: PlaceId, source: &Entry, destination: &Entry) {
        if source.is_hard_link() {
            if self.linked.len() < LINKED_MAX {
                self.linked.insert((source.dev, source.ino), None);
            }
            return;
        }
        let needs = self.needs_of(place, destination);
        let pairs = [
            (Owner::User(source.uid), Owner::User(destination.uid)),
            (Owner::Group(source.gid), Owner::Group(destination.gid)),
        ];
        for (new, old) in pairs.into_iter().filter(|(new, old)| new != old) {
            self.owe(place, new, |balance| balance.comes.add(needs));
            self.owe(place, old, |balance| balance.goes.add(needs));
        }
    }

    /// Counts what is kept in the stage instead, where it is root's unless it has another name.
    fn free(&mut self, place: PlaceId, destination: &Entry) {
        if !is_root() || (destination.nlink > 1 && !destination.kind.is_directory()) {
            return;
        }
        let needs = self.needs_of(place, destination);
        for owner in [Owner::User(destination.uid), Owner::Group(destination.gid)] {
            self.owe(place, owner, |balance| balance.goes.add(needs));
        }
    }

    /// Whether the room at the root is certain to do for something, wherever below it that comes and whoever owns it.
    pub(crate) fn is_enough_for(&self, needs: Needs) -> bool {
        let (Some(place), Some(root)) = (self.places.first(), &self.root) else { return true };
        let disk = &self.disks[place.disk];
        let is_one = !root.holds_mounts().unwrap_or(true);
        let is_free = place.quotas.is_empty() && !disk.quotas.bind_owners();
        is_one && is_free && needs.too_much_for(&disk.space, disk.packing).is_none()
    }

    /// Returns what an entry takes at least, at the root's place.
    pub(crate) fn least(&self, source: &Entry) -> Needs {
        self.needs_of(HERE, source)
    }

    /// Says what would not fit. `staged` tells for each file system what stands in the stage already and is part of
    /// what was counted.
    pub(crate) fn shortfalls(&mut self, staged: &BTreeMap<String, Needs>) -> Vec<Shortfall> {
        for Linked { place, needs, uid, gid } in std::mem::take(&mut self.linked).into_values().flatten() {
            self.add(place, needs, uid, gid);
        }
        let mut accounts = Accounts::default();
        let mut found = Vec::new();
        for disk in &self.disks {
            let staged = staged.get(&disk.id).copied().unwrap_or_default();
            let why = disk.needs.less(staged).too_much_for(&disk.space, disk.packing);
            found.extend(why.map(|why| of_disk(&disk.shown, &why)));
            for (owner, balance) in &disk.owners {
                let quota = match owner {
                    Owner::User(uid) => disk.quotas.of_user(*uid),
                    Owner::Group(gid) => disk.quotas.of_group(*gid),
                };
                // What is staged is root's until it is whole.
                let needs = balance.comes.less(balance.goes);
                let why = quota.and_then(|quota| Some((quota.of, needs.too_much_for_quota(&quota)?)));
                found.extend(why.map(|(of, why)| of_quota(&disk.shown, of, &why, &mut accounts)));
            }
        }
        for place in &self.places {
            let disk = &self.disks[place.disk];
            let staged = staged.get(&disk.id).copied().unwrap_or_default();
            let needs = place.needs.less(staged);
            for quota in place.quotas.iter().filter(|_quota| !disk.packing.may_compress) {
                let why = needs.too_much_for_quota(quota);
                found.extend(why.map(|why| of_quota(&place.shown, quota.of, &why, &mut accounts)));
            }
        }
        found
    }

    fn needs_of(&self, place: PlaceId, entry: &Entry) -> Needs {
        let block = self.places.get(place).map_or(1, |place| self.disks[place.disk].packing.block_bytes);
        Needs { bytes: data_of(entry).next_multiple_of(block), inodes: 1 }
    }

    fn add(&mut self, place: PlaceId, needs: Needs, uid: u32, gid: u32) {
        let Some(known) = self.places.get_mut(place) else { return };
        known.needs.add(needs);
        self.disks[known.disk].needs.add(needs);
        self.disks[self.places[HERE].disk].needs.add(Needs { bytes: RECORD_BYTES, inodes: 0 });
        for owner in [Owner::User(uid), Owner::Group(gid)] {
            self.owe(place, owner, |balance| balance.comes.add(needs));
        }
    }

    fn owe(&mut self, place: PlaceId, owner: Owner, change: impl FnOnce(&mut Balance)) {
        let Some(place) = self.places.get(place) else { return };
        let disk = &mut self.disks[place.disk];
        let is_counted = disk.owners.len() < OWNERS_MAX || disk.owners.contains_key(&owner);
        if disk.quotas.bind_owners() && is_counted {
            change(disk.owners.entry(owner).or_default());
        }
    }

    /// Returns the place of a directory, looking at it if it is the first there.
    fn add_place(&mut self, path: &RelPath, dir: &Dir) -> Option<PlaceId> {
        let domain = dir.rename_domain().ok()?;
        if let Some(place) = self.by_domain.get(&domain) {
            return Some(*place);
        }
        if self.places.len() >= PLACES_MAX {
            return None;
        }
        let id = disk_id(dir).ok()?;
        let disk = match self.disks.iter().position(|disk| disk.id == id) {
            Some(disk) => disk,
            None => {
                let (space, packing, quotas) = (dir.space().ok()?, dir.packing().ok()?, dir.quotas());
                let (shown, needs, owners) = (path.clone(), Needs::default(), BTreeMap::new());
                self.disks.push(Disk { id, shown, space, packing, quotas, needs, owners });
                self.disks.len() - 1
            }
        };
        let quotas = dir.quotas().here().to_vec();
        self.places.push(Place { shown: path.clone(), disk, quotas, needs: Needs::default() });
        self.by_domain.insert(domain, self.places.len() - 1);
        Some(self.places.len() - 1)
    }
}

impl Shortfall {
    /// Returns it as a finding.
    pub(crate) fn finding(self) -> Finding {
        finding(Rule::Capacity, Severity::Warning, &self.path, self.message, self.hint)
    }
}

/// What is kept in the stage belongs to root only if the agent is.
fn is_root() -> bool {
    rustix::process::geteuid().is_root()
}

fn of_disk(path: &RelPath, why: &str) -> Shortfall {
    Shortfall {
        path: path.clone(),
        message: format!(
            "the destination's file system is too small: {why}; what is replaced or removed is kept until the migration is settled"
        ),
        hint: "Make room at the destination first.".to_owned(),
    }
}

fn of_quota(path: &RelPath, of: QuotaOf, why: &str, accounts: &mut Accounts) -> Shortfall {
    let named = |noun: &str, id: u32, name: Option<Vec<u8>>| match name {
        Some(name) => format!("{noun} `{}`", escape(&name)),
        None => format!("{noun} {id}"),
    };
    let (whose, how) = match of {
        QuotaOf::User(uid) => {
            (named("user", uid, accounts.user_name(uid).ok().flatten()), "`setquota` or `edquota`")
        }
        QuotaOf::Group(gid) => {
            (named("group", gid, accounts.group_name(gid).ok().flatten()), "`setquota` or `edquota`")
        }
        QuotaOf::Project(id) => (format!("project {id}"), "`setquota -P`, or `xfs_quota`"),
        QuotaOf::Subvolume { level, id } => {
            (format!("btrfs quota group {level}/{id}"), "`btrfs qgroup limit`")
        }
    };
    Shortfall {
        path: path.clone(),
        message: format!(
            "the quota of {whose} at the destination is too small: {why}; what is replaced or removed is kept until the migration is settled"
        ),
        hint: format!("Raise the quota of {whose} at the destination first ({how})."),
    }
}

#[cfg(test)]
mod tests {
    use common::finding::Rule;

    use crate::mounted_test::Mounted;
    use crate::pair::Pair;

    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn a_dry_run_says_which_file_system_is_too_small() {
        let mut pair = Pair::new();
        let (root, source) = (pair.destination_root.clone(), pair.source_root.clone());
        let Some(_few_inodes) = Mounted::tmpfs(&root, "size=8m,nr_inodes=40") else { return };
        let Some(_few_bytes) = Mounted::tmpfs(&root.join("mounted"), "size=1m") else { return };
        for number in 0..30 {
            std::fs::write(source.join(format!("f{number}")), "x").unwrap();
        }
        std::fs::create_dir(source.join("mounted")).unwrap();
        std::fs::write(source.join("mounted/large"), vec![7; 900 << 10]).unwrap();
        pair.params.dry_run = true;
        let (output, findings) = pair.copy().await;
        output.unwrap();
        assert_eq!(findings, [], "it fits");

        for number in 30..50 {
            std::fs::write(source.join(format!("f{number}")), "x").unwrap();
        }
        std::fs::write(source.join("mounted/more"), vec![7; 400 << 10]).unwrap();
        let (_output, findings) = pair.copy().await;
        let told: Vec<_> = findings.iter().map(|one| (one.rule, one.object.as_str())).collect();
        assert_eq!(told, [(Rule::Capacity, "."), (Rule::Capacity, "mounted")], "{findings:?}");
        assert!(findings[0].message.contains("inodes") && findings[1].message.contains("free"));
        pair.close().await;
    }
}
