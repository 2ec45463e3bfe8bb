//! What stands at a root, looked at before a plan is made.
//!
//! Changes nothing. What it says may be out of date as soon as it is said: the steps check again what they depend on.

use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use common::failure::{Failure, FailureKind};
use common::finding::{Finding, Rule, Severity};
use common::rel_path::escape;
use common::step::file::{RootAnswer, RootIdentity, RootQuestion, RootSide};
use tree::{Dir, Identity, Root, TreeError};

/// File systems that hold no files of anybody.
const NOT_FOR_FILES: [&str; 2] = ["proc", "sysfs"];

/// Looks at a root on a thread that may block.
///
/// # Errors
/// When the look itself fails; what speaks against using the root is in the answer's findings.
pub async fn look_at_root(question: RootQuestion) -> Result<RootAnswer, Failure> {
    let looked = tokio::task::spawn_blocking(move || look(&question)).await;
    looked.map_err(|error| Failure::of(FailureKind::Bug, &error))?
}

fn look(question: &RootQuestion) -> Result<RootAnswer, Failure> {
    let path = Path::new(&question.path);
    match Root::open(path) {
        Ok(root) => describe(question, &root, Vec::new()),
        Err(error) if error.is_not_found() => look_above(question, path),
        Err(error) => Ok(unusable(question, &error)),
    }
}

/// Describes the nearest directory above a root that does not exist.
fn look_above(question: &RootQuestion, path: &Path) -> Result<RootAnswer, Failure> {
    let mut missing = Vec::new();
    let mut above = path;
    loop {
        let (Some(parent), Some(name)) = (above.parent(), above.file_name()) else {
            return Err(Failure::new(FailureKind::Invalid, format!("{} is no absolute path", question.path)));
        };
        missing.insert(0, escape(name.as_bytes()));
        match Root::open(parent) {
            Ok(root) => return describe(question, &root, missing),
            Err(error) if error.is_not_found() => above = parent,
            Err(error) => return Ok(unusable(question, &error)),
        }
    }
}

/// Describes a root, or the nearest directory above it when components are missing.
fn describe(question: &RootQuestion, root: &Root, missing: Vec<String>) -> Result<RootAnswer, Failure> {
    let failed = |error: TreeError| Failure::of(FailureKind::Unsupported, &error);
    let dir = root.dir();
    let exists = missing.is_empty();
    let own = identity(root.identity().map_err(failed)?);
    let mut ancestors: Vec<RootIdentity> =
        root.ancestors_by_every_name().map_err(failed)?.into_iter().map(identity).collect();
    if !exists {
        ancestors.insert(0, own.clone());
    }
    let (space, features) = (dir.space().map_err(failed)?, dir.features().map_err(failed)?);
    let mut findings = Vec::new();
    match question.side {
        RootSide::Source if !exists => findings.push(finding(
            question,
            "it does not exist",
            "Check the path on the source host.",
            Rule::Vanished,
        )),
        RootSide::Source => findings
            .extend(check_file_system(question, features.fs_type).or_else(|| check_readable(question, &dir))),
        RootSide::Destination => findings
            .extend(check_file_system(question, features.fs_type).or_else(|| check_writable(question, &dir))),
    }
    Ok(RootAnswer {
        exists,
        canonical_path: shown(&root.canonical_path().map_err(failed)?),
        identity: exists.then_some(own),
        ancestors,
        missing,
        free_bytes: space.bytes_free,
        free_inodes: space.inodes_free.unwrap_or(0),
        fs_type: features.fs_type.to_owned(),
        findings,
    })
}

fn check_readable(question: &RootQuestion, dir: &Dir) -> Option<Finding> {
    let error = dir.list().and_then(|mut listing| listing.next().transpose()).err()?;
    let message = format!("it cannot be read: {}", common::failure::chain(&error));
    Some(finding(
        question,
        &message,
        "Run the source's agent as root, or give it the right to read.",
        Rule::Unreadable,
    ))
}

fn check_file_system(question: &RootQuestion, fs_type: &str) -> Option<Finding> {
    if !NOT_FOR_FILES.contains(&fs_type) {
        return None;
    }
    let rule = match question.side {
        RootSide::Source => Rule::Unreadable,
        RootSide::Destination => Rule::Unwritable,
    };
    let message = format!("it stands on a file system of type {fs_type}, which holds no files");
    Some(finding(question, &message, "Choose a directory on a disk.", rule))
}

fn check_writable(question: &RootQuestion, dir: &Dir) -> Option<Finding> {
    let error = dir.check_writable().err()?;
    let message = format!("it cannot be written: {}", common::failure::chain(&error));
    let hint = "Mount it writable, or choose another destination.";
    Some(finding(question, &message, hint, Rule::Unwritable))
}

/// The answer for a path that leads to something else than a directory, or nowhere that can be opened.
fn unusable(question: &RootQuestion, error: &TreeError) -> RootAnswer {
    let message = if error.is_wrong_kind() {
        "it is not a directory".to_owned()
    } else {
        format!("it cannot be opened: {}", common::failure::chain(error))
    };
    let rule = match question.side {
        _ if error.is_wrong_kind() => Rule::InTheWay,
        RootSide::Source => Rule::Unreadable,
        RootSide::Destination => Rule::Unwritable,
    };
    RootAnswer {
        exists: true,
        canonical_path: escape(question.path.as_bytes()),
        identity: None,
        ancestors: Vec::new(),
        missing: Vec::new(),
        free_bytes: 0,
        free_inodes: 0,
        fs_type: "unknown".to_owned(),
        findings: vec![finding(question, &message, "Name a directory that the agent may open.", rule)],
    }
}

fn finding(question: &RootQuestion, message: &str, hint: &str, rule: Rule) -> Finding {
    Finding {
        rule,
        severity: Severity::Error,
        object: escape(question.path.as_bytes()),
        message: message.to_owned(),
        hint: hint.to_owned(),
    }
}

fn identity(identity: Identity) -> RootIdentity {
    RootIdentity { boot_id: identity.boot_id, device: identity.dev, inode: identity.ino }
}

fn shown(path: &Path) -> String {
    escape(path.as_os_str().as_bytes())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ask(path: &Path, side: RootSide) -> RootAnswer {
        look(&RootQuestion { path: path.display().to_string(), side }).unwrap()
    }

    #[test]
    fn a_directory_is_described_and_a_missing_one_by_what_is_above() {
        let directory = tempfile::tempdir().unwrap();
        let here = ask(directory.path(), RootSide::Destination);
        assert!(here.exists && here.findings.is_empty(), "{here:?}");
        let below = ask(&directory.path().join("a/b"), RootSide::Destination);
        assert_eq!((below.exists, below.missing), (false, vec!["a".to_owned(), "b".to_owned()]));
        assert_eq!(below.ancestors.first(), here.identity.as_ref());
        assert!(below.findings.is_empty());
    }

    #[test]
    fn what_cannot_be_used_is_found() {
        let directory = tempfile::tempdir().unwrap();
        std::fs::write(directory.path().join("file"), "x").unwrap();
        let cases = [
            ("absent", RootSide::Source, "does not exist"),
            ("file", RootSide::Source, "not a directory"),
            ("file", RootSide::Destination, "not a directory"),
            ("file/below", RootSide::Destination, "not a directory"),
        ];
        for (name, side, said) in cases {
            let answer = ask(&directory.path().join(name), side);
            assert_eq!(answer.findings.len(), 1, "{name}");
            assert!(answer.findings[0].message.contains(said), "{name}: {}", answer.findings[0].message);
        }
        let proc = ask(Path::new("/proc/drover"), RootSide::Destination);
        assert!(proc.findings[0].message.contains("proc"), "{proc:?}");
    }

    #[test]
    fn one_folder_under_two_names_is_one_identity() {
        let directory = tempfile::tempdir().unwrap();
        std::fs::create_dir(directory.path().join("real")).unwrap();
        std::os::unix::fs::symlink("real", directory.path().join("alias")).unwrap();
        let real = ask(&directory.path().join("real"), RootSide::Source);
        let alias = ask(&directory.path().join("alias"), RootSide::Destination);
        assert!(real.identity.is_some() && real.identity == alias.identity);
    }
}
