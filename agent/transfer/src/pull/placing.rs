//! What has no content: made by the planner itself, and handed to the committer.

use common::digest::Digest;
use common::failure::Failure;
use common::rel_path::RelPath;
use sync::entry::Entry;
use tree::TreeError;

use super::committing::{landing_of, unwritable};
use super::plan::{Later, Planner};
use super::{Again, Item};
use crate::commit::{Effect, Seen, Staged};
use crate::domain::DomainId;
use crate::staged::Made;
use crate::trouble::{is_fatal, of_stage};

impl Planner<'_> {
    /// Makes something without content.
    pub(super) fn place(
        &mut self,
        path: RelPath,
        domain: DomainId,
        source: &Entry,
        seen: Option<Box<Seen>>,
    ) -> Result<(), Failure> {
        if source.kind.is_directory() {
            self.directories.write(&Later { path: path.clone(), wanted: source.clone() })?;
        }
        let made = self.make(domain, source)?;
        let source = source.clone();
        let wanted = Again { path, domain, source, seen, is_anchor: false, times_asked: 0 };
        self.install_placed(wanted, made)
    }

    /// Makes something without content in the stage.
    pub(super) fn make(
        &mut self,
        domain: DomainId,
        source: &Entry,
    ) -> Result<Result<Made, TreeError>, Failure> {
        let domain = self.pass.stage.domains.get(domain)?;
        Ok(self.bench.place(&domain, source))
    }

    /// Has something without content committed.
    pub(super) fn install_placed(
        &mut self,
        wanted: Again,
        made: Result<Made, TreeError>,
    ) -> Result<(), Failure> {
        let Made { dir, name, entry, problems, is_synced } = match made {
            Ok(made) => made,
            Err(error) if is_fatal(&error) => return Err(of_stage(&error)),
            Err(error) => {
                unwritable(self.pass, &wanted.path, &error);
                return Ok(());
            }
        };
        let Again { path, domain, source, seen, is_anchor, .. } = wanted.clone();
        let digest = source.kind.is_file().then(|| Digest::of(b""));
        let assembly = self.assemble(&wanted, &dir, &name);
        let staged = Staged { dir, name, is_anchor, is_synced, assembly: assembly.clone() };
        let effect = Effect::Install { staged, new: Box::new(entry), digest, seen };
        // Further names of its group refer to the anchor.
        let again = (!is_anchor).then(|| Box::new(wanted));
        // What may be asked for again must be waited for.
        self.pass.flow.acquire(0)?;
        let item = Item::new(path, domain, effect, landing_of(&source));
        self.send(Item { problems, cost: Some(0), again, assembly, ..item })
    }
}
