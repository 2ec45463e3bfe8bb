//! What is asked for later, spilled until then: what came too early or changed, and what takes the place of directories.

use common::failure::Failure;
use serde::Serialize;
use tree::{AppendFile, Name};

use super::plan::Planner;
use super::{Again, Pass, lock};
use crate::frame_file::{FrameReader, FrameWriter};
use crate::trouble::of_stage;

impl Planner<'_> {
    /// Asks for what came too early or changed, until nothing is left of that.
    pub(super) fn fetch_again(&mut self) -> Result<(), Failure> {
        loop {
            self.pass.flow.wait_until_idle()?;
            let next = spilled(self.pass, "again")?;
            let Some(again) = lock(&self.pass.again).replace(next) else { return Ok(()) };
            let file = again.finish()?;
            if file.length_bytes() == 0 {
                return Ok(());
            }
            self.fetch_spilled(file)?;
        }
    }

    /// Asks for what was put off.
    pub(super) fn fetch_spilled(&mut self, file: AppendFile) -> Result<(), Failure> {
        let mut reader = FrameReader::<Again>::forwards(file, 0);
        while let Some(mut wanted) = reader.next()? {
            self.pass.flow.check()?;
            let Again { path, source, seen, .. } = &wanted;
            if !self.is_place_free(path, source, seen.as_deref())? {
                continue;
            }
            let Some(domain) = self.domain_of(&wanted.path)? else { continue };
            wanted.domain = domain;
            if wanted.source.kind.is_file() && wanted.source.size() > 0 {
                self.fetch(wanted)?;
            } else {
                let made = self.make(domain, &wanted.source)?;
                self.install_placed(wanted, made)?;
            }
        }
        Ok(())
    }
}

/// Begins a spill file; one of that name before it is only for whoever holds it open.
pub(super) fn spilled<T: Serialize>(pass: &Pass, name: &str) -> Result<FrameWriter<T>, Failure> {
    let name = Name::new(name).expect("a constant without slash");
    match pass.stage.spill.unlink(&name) {
        Err(error) if !error.is_not_found() => return Err(of_stage(&error)),
        _ => {}
    }
    pass.stage.spill.create_append(&name).map(FrameWriter::new).map_err(|error| of_stage(&error))
}
