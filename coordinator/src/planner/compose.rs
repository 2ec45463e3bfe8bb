//! Phases × descriptors → graph.

use common::bandwidth::Bandwidth;
use common::finding::Finding;
use common::id::{HostName, MigrationId};
use common::phase::Scope;
use common::plan::{PLAN_VERSION, Plan, PlannedStep};
use common::spec::{MigrationSpec, ValidationLevel};
use common::step::file::{FileParams, VERSION};
use common::step::{StepDescriptor, StepKind, file};

use super::{check, step_id};

/// What a step looks at to compare.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Against {
    /// What was asked for, which is what the last pass saw of the source.
    Asked,
    /// The source as it is now.
    Source,
    /// The same, with all content of both sides.
    SourceWhole,
}

/// Makes the graph: the copy, then the proof where it is asked for. A dry run compares and proves nothing.
///
/// Where it catches up, what was copied is proven first, while the source is live; then the passes go on until the last
/// one is under the freeze, and what they all touched is proven there.
pub(super) fn compose(
    migration: &MigrationId,
    spec: &MigrationSpec,
    source: &HostName,
    destination: &HostName,
    settles: Vec<MigrationId>,
) -> Result<Plan, Finding> {
    let copy = step(spec, &file::COPY, 1, destination, Some(source), Scope::Whole, Against::Asked)?;
    let mut steps = vec![copy];
    if spec.options.verify_after && !spec.options.dry_run {
        let mut verify = verify(spec, 1, destination, Some(source), Scope::Whole, Against::Asked)?;
        verify.after = vec![steps[0].id.clone()];
        steps.push(verify);
    }
    if spec.transfer.catch_up.is_some() && !spec.options.dry_run {
        for descriptor in [&file::CATCH_UP, &file::FINISH] {
            let scope = descriptor.phases[0].1;
            steps.push(step(spec, descriptor, 1, destination, Some(source), scope, Against::Asked)?);
        }
        if spec.options.verify_after {
            steps.push(verify(spec, 2, destination, Some(source), Scope::Finish, Against::Asked)?);
        }
        for place in 1..steps.len() {
            steps[place].after = vec![steps[place - 1].id.clone()];
        }
    }
    Ok(Plan {
        version: PLAN_VERSION,
        migration: migration.clone(),
        generation: 1,
        parent: None,
        steps,
        settles,
    })
}

/// Makes a step that verifies.
pub(super) fn verify(
    spec: &MigrationSpec,
    number: u32,
    destination: &HostName,
    source: Option<&HostName>,
    scope: Scope,
    against: Against,
) -> Result<PlannedStep, Finding> {
    step(spec, &file::VERIFY, number, destination, source, scope, against)
}

/// Makes one step out of what its kind is and what was asked for.
fn step(
    spec: &MigrationSpec,
    descriptor: &StepDescriptor,
    number: u32,
    destination: &HostName,
    source: Option<&HostName>,
    scope: Scope,
    against: Against,
) -> Result<PlannedStep, Finding> {
    let is_deep = against == Against::SourceWhole;
    let stands = descriptor.phases.iter().find(|(_, stands_for)| *stands_for == scope);
    let no_phase = || check::finding("plan", "the kind has no such scope", "report this as a bug");
    let (phase, _) = stands.copied().ok_or_else(no_phase)?;
    let params = FileParams {
        version: VERSION,
        source_root: spec.source.location.path.clone(),
        destination_root: spec.destination.location.path.clone(),
        exclude: patterns(&spec.source.exclude, &spec.destination.exclude),
        include: patterns(&spec.source.include, &spec.destination.include),
        delete: spec.transfer.delete,
        max_delete: spec.transfer.max_delete,
        checksum: spec.transfer.checksum || is_deep,
        numeric_ids: spec.transfer.numeric_ids,
        bandwidth_limit: spec.transfer.bandwidth_limit.as_ref().and_then(Bandwidth::fixed),
        compression: spec.transfer.compression,
        dry_run: spec.options.dry_run,
        validation_level: if is_deep { ValidationLevel::Strict } else { spec.options.validation_level },
        keep_way_back: spec.rollback_window_ms() > 0,
        scope,
        compares_now: against != Against::Asked,
        sanitize: spec.sanitize.clone(),
        transport: spec.transfer.transport,
        catch_up: spec.transfer.catch_up.filter(|_| descriptor.kind == StepKind::FileCatchUp),
        rules: spec.transfer.rules.clone(),
    };
    let params = serde_json::to_string(&params)
        .map_err(|error| check::finding("plan", &error.to_string(), "report this as a bug"))?;
    Ok(PlannedStep {
        id: step_id(descriptor.kind, number)?,
        kind: descriptor.kind,
        version: descriptor.version,
        phase,
        scope,
        host: destination.clone(),
        peer: source.cloned(),
        after: Vec::new(),
        is_continuous: descriptor.is_continuous,
        reversibility: descriptor.reversibility,
        weight: descriptor.weight,
        params,
    })
}

/// Both sides' patterns count, because one scan serves both.
fn patterns(source: &[String], destination: &[String]) -> Vec<String> {
    source.iter().chain(destination).cloned().collect()
}

#[cfg(test)]
mod tests {
    use common::host::HostFacts;
    use common::spec::CatchUpSpec;
    use common::step::StepVersion;
    use common::step::file::{RootAnswer, RootIdentity};
    use common::transport::TransportChoice;

    use super::*;
    use crate::planner::{Side, plan, verify_again};
    use crate::state::sample;

    fn facts() -> HostFacts {
        let step = |kind: StepKind| StepVersion { kind, version: 1 };
        HostFacts {
            steps: [StepKind::FileCatchUp, StepKind::FileCopy, StepKind::FileFinish, StepKind::FileVerify]
                .map(step)
                .into(),
            data_addresses: vec!["127.0.0.1:7443".parse().unwrap()],
            ..HostFacts::default()
        }
    }

    fn root(path: &str, inodes: &[u64]) -> RootAnswer {
        let identity = |inode: &u64| RootIdentity { boot_id: "b".to_owned(), device: 1, inode: *inode };
        let mut chain = inodes.iter().map(identity);
        RootAnswer {
            exists: true,
            canonical_path: path.to_owned(),
            identity: chain.next(),
            ancestors: chain.collect(),
            missing: Vec::new(),
            free_bytes: 1,
            free_inodes: 1,
            fs_type: "ext4".to_owned(),
            findings: Vec::new(),
        }
    }

    fn planned(spec: &MigrationSpec, from: &RootAnswer, to: &RootAnswer) -> Result<Plan, Vec<Finding>> {
        let (web1, web2) = ("web1".parse().unwrap(), "web2".parse().unwrap());
        let source = Side { host: &web1, facts: &facts(), root: from };
        let destination = Side { host: &web2, facts: &facts(), root: to };
        plan(&"m1".parse().unwrap(), spec, source, destination, None, Vec::new())
    }

    #[test]
    fn flags_alone_copy_and_then_verify() {
        let spec = sample::spec();
        let plan = planned(&spec, &root("/a", &[3, 2]), &root("/b", &[4, 2])).unwrap();
        let ids: Vec<&str> = plan.steps.iter().map(|step| step.id.as_str()).collect();
        assert_eq!(ids, ["file.copy-1", "file.verify-1"]);
        assert_eq!(plan.steps[1].after, [plan.steps[0].id.clone()]);
        assert_eq!(plan.steps[0].host.as_str(), "web2");
        let params: FileParams = serde_json::from_str(&plan.steps[0].params).unwrap();
        assert!(!params.keep_way_back && !params.dry_run);
        let again = verify_again(&plan, &spec, true).unwrap();
        assert_eq!(again.id.as_str(), "file.verify-2");
        let params: FileParams = serde_json::from_str(&again.params).unwrap();
        assert_eq!((params.checksum, params.validation_level), (true, ValidationLevel::Strict));
    }

    #[test]
    fn catching_up_proves_the_bulk_while_the_source_is_live_and_the_rest_under_the_freeze() {
        let mut spec = sample::spec();
        spec.transfer.catch_up = Some(CatchUpSpec::default());
        let plan_of =
            |spec: &MigrationSpec| planned(spec, &root("/a", &[3, 2]), &root("/b", &[4, 2])).unwrap();
        let plan = plan_of(&spec);
        let ids: Vec<&str> = plan.steps.iter().map(|step| step.id.as_str()).collect();
        assert_eq!(
            ids,
            ["file.copy-1", "file.verify-1", "file.catch_up-1", "file.finish-1", "file.verify-2"]
        );
        for (earlier, later) in plan.steps.iter().zip(&plan.steps[1..]) {
            assert_eq!(later.after, std::slice::from_ref(&earlier.id));
        }
        let frozen: Vec<bool> =
            plan.steps.iter().map(|step| step.phase == common::phase::Phase::Freeze).collect();
        assert_eq!(frozen, [false, false, false, true, true]);
        assert_eq!(plan.steps[4].scope, Scope::Finish);
        let continuous: Vec<bool> = plan.steps.iter().map(|step| step.is_continuous).collect();
        assert_eq!(continuous, [false, false, true, false, false]);
        spec.options.dry_run = true;
        assert_eq!(plan_of(&spec).steps.len(), 1);
    }

    #[test]
    fn a_dry_run_only_compares() {
        let mut spec = sample::spec();
        spec.options.dry_run = true;
        let plan = planned(&spec, &root("/a", &[3, 2]), &root("/b", &[4, 2])).unwrap();
        assert_eq!(plan.steps.len(), 1);
    }

    #[test]
    fn one_of_both_agents_must_be_one_that_can_be_dialled() {
        let (spec, web1, web2) = (sample::spec(), "web1".parse().unwrap(), "web2".parse().unwrap());
        let (from, to) = (root("/a", &[3, 2]), root("/b", &[4, 2]));
        let hidden = HostFacts { data_addresses: Vec::new(), ..facts() };
        let with = |of_source: &HostFacts, of_destination: &HostFacts| {
            let source = Side { host: &web1, facts: of_source, root: &from };
            let destination = Side { host: &web2, facts: of_destination, root: &to };
            plan(&"m1".parse().unwrap(), &spec, source, destination, None, Vec::new())
        };
        assert!(with(&hidden, &facts()).is_ok());
        assert!(with(&facts(), &hidden).is_ok());
        let refused = with(&hidden, &hidden).unwrap_err();
        assert!(refused[0].message.contains("web1") && refused[0].message.contains("web2"), "{refused:?}");
    }

    #[test]
    fn a_relay_is_a_third_host_that_can_be_dialled() {
        let (mut spec, web1, web2) = (sample::spec(), "web1".parse().unwrap(), "web2".parse().unwrap());
        let (from, to) = (root("/a", &[3, 2]), root("/b", &[4, 2]));
        let hidden = HostFacts { data_addresses: Vec::new(), ..facts() };
        let with = |spec: &MigrationSpec, relay: &HostFacts| {
            let source = Side { host: &web1, facts: &hidden, root: &from };
            let destination = Side { host: &web2, facts: &hidden, root: &to };
            plan(&"m1".parse().unwrap(), spec, source, destination, Some(relay), Vec::new())
        };
        spec.transfer.relay = Some("web3".parse().unwrap());
        assert!(with(&spec, &facts()).is_ok(), "neither side need be one that can be dialled");
        assert!(with(&spec, &hidden).is_err());
        spec.transfer.transport = TransportChoice::Quic;
        assert!(with(&spec, &facts()).is_err());
        spec.transfer.transport = TransportChoice::Tcp;
        spec.transfer.relay = Some(web2.clone());
        assert!(with(&spec, &facts()).is_err());
    }

    #[test]
    fn everything_that_stands_against_it_is_told_at_once() {
        let spec = sample::spec();
        let mut missing = root("/b", &[4, 2]);
        missing.exists = false;
        missing.identity = None;
        missing.ancestors = vec![RootIdentity { boot_id: "b".to_owned(), device: 1, inode: 3 }];
        missing.missing = vec!["x".to_owned()];
        let nested = planned(&spec, &root("/a", &[3, 2]), &missing).unwrap_err();
        assert!(nested.iter().any(|finding| finding.message.contains("inside the source")), "{nested:?}");
        let same = planned(&spec, &root("/a", &[3, 2]), &root("/c", &[3, 2])).unwrap_err();
        assert!(same.iter().any(|finding| finding.message.contains("one folder")), "{same:?}");
    }
}
