//! What is done to which path before it leaves its host: the rules of `sanitize`, made ready.
//!
//! Both sides make them out of the same signed words. The source acts by them; the destination only asks which files
//! look alike without being so, because one that it holds already may be the unmasked one.

use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

use common::filter::{Filter, InvalidPattern};
use common::mask::{InvalidMask, Masker, Unmaskable, check_text};
use common::rel_path::RelPath;
use common::sanitize::{Action, MASKED_BYTES_MAX, Sanitize};
use common::secret::Secret;

use crate::entry::{Entry, Kind};

/// How the reason begins for which a file that is too large to be masked is left out; by it the side that only reads the
/// reason knows that a rule stands against the file and nothing is wrong with it.
pub(crate) const TOO_LARGE: &str = "a rule of `sanitize` would have to mask it";
/// What a person can do about a file that cannot be masked.
pub const UNMASKED_HINT: &str = "Drop or replace it in `sanitize`, or leave it out of the rule that masks.";

/// Rules that are ready, and how often each applied.
#[derive(Debug)]
pub struct Sanitizer {
    rules: Vec<Rule>,
}

#[derive(Debug)]
struct Rule {
    filter: Filter,
    action: Ready,
    files: AtomicU64,
}

#[derive(Debug)]
enum Ready {
    Drop,
    Replace(Vec<u8>),
    Mask(Masker),
}

/// What is done to one entry.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Treatment {
    /// Nothing.
    Kept,
    /// It is left out.
    Dropped(usize),
    /// It has the content of this rule.
    Replaced(usize),
    /// These rules mask it.
    Masked(Vec<usize>),
}

/// Why rules cannot be used.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum InvalidRule {
    /// A pattern.
    #[error(transparent)]
    Pattern(#[from] InvalidPattern),
    /// An expression.
    #[error(transparent)]
    Mask(#[from] InvalidMask),
}

impl Sanitizer {
    /// Makes rules ready. Without the key they say what is done to which path, and must not be used to mask.
    ///
    /// # Errors
    /// When a pattern or an expression cannot be used.
    pub fn new(rules: &Sanitize, key: Option<&Secret<Vec<u8>>>) -> Result<Self, InvalidRule> {
        let ready = |rule: &common::sanitize::FileRule| {
            let action = match &rule.action {
                Action::Drop => Ready::Drop,
                Action::Replace(content) => Ready::Replace(content.clone().into_bytes()),
                Action::Mask(mask) => Ready::Mask(Masker::new(mask, key)?),
            };
            let filter = Filter::new::<&str>(&patterns(&rule.patterns), &[])?;
            Ok(Rule { filter, action, files: AtomicU64::new(0) })
        };
        Ok(Self { rules: rules.files.iter().map(ready).collect::<Result<_, InvalidRule>>()? })
    }

    /// Returns what is done to an entry; what is done to the directories above it is not asked about.
    pub fn treatment(&self, directory: &RelPath, name: &[u8], is_directory: bool) -> Treatment {
        let applies = |rule: &Rule| rule.filter.leaves_out(directory, name, is_directory);
        let mut masks = Vec::new();
        let mut replaces = None;
        for (number, rule) in self.rules.iter().enumerate() {
            match rule.action {
                Ready::Drop if applies(rule) => return Treatment::Dropped(number),
                Ready::Replace(_) if !is_directory && replaces.is_none() && applies(rule) => {
                    replaces = Some(number);
                }
                Ready::Mask(_) if !is_directory && applies(rule) => masks.push(number),
                Ready::Drop | Ready::Replace(_) | Ready::Mask(_) => {}
            }
        }
        match replaces {
            Some(number) => Treatment::Replaced(number),
            None if masks.is_empty() => Treatment::Kept,
            None => Treatment::Masked(masks),
        }
    }

    /// Returns what is done to a file, a directory above it that is dropped being asked about too.
    pub fn treatment_of(&self, path: &RelPath) -> Treatment {
        let Some((directory, name)) = path.split() else { return Treatment::Kept };
        let mut above = directory.clone();
        while let Some((parent, name)) = above.split() {
            if let dropped @ Treatment::Dropped(_) = self.treatment(&parent, name, true) {
                return dropped;
            }
            above = parent;
        }
        self.treatment(&directory, name, false)
    }

    /// Makes a regular file's entry that of what it becomes, and counts.
    ///
    /// # Errors
    /// When it is too large to be masked.
    pub fn treat(&self, treatment: &Treatment, entry: &mut Entry) -> Result<(), String> {
        let Kind::File { size, allocated_bytes } = &mut entry.kind else { return Ok(()) };
        match treatment {
            Treatment::Kept | Treatment::Dropped(_) => return Ok(()),
            Treatment::Replaced(number) => {
                let content = self.replacement(*number);
                (*size, *allocated_bytes) = (content.len() as u64, content.len() as u64);
                self.count(*number);
            }
            Treatment::Masked(numbers) => {
                if *size > MASKED_BYTES_MAX {
                    return Err(format!(
                        "{TOO_LARGE}, and it has {size} bytes of at most {MASKED_BYTES_MAX}"
                    ));
                }
                *allocated_bytes = *size;
                numbers.iter().for_each(|number| self.count(*number));
            }
        }
        // Under its other names the inode may have other content, so each name gets a file of its own.
        entry.nlink = 1;
        Ok(())
    }

    /// Returns the content of a rule that replaces.
    pub fn replacement(&self, number: usize) -> &[u8] {
        match self.rules.get(number).map(|rule| &rule.action) {
            Some(Ready::Replace(content)) => content,
            Some(Ready::Drop | Ready::Mask(_)) | None => &[],
        }
    }

    /// Masks a whole file in place.
    ///
    /// # Errors
    /// When it is no text.
    pub fn mask(&self, numbers: &[usize], content: &mut [u8]) -> Result<(), Unmaskable> {
        check_text(content)?;
        for number in numbers {
            if let Some(Ready::Mask(masker)) = self.rules.get(*number).map(|rule| &rule.action) {
                masker.mask(content);
            }
        }
        Ok(())
    }

    /// Counts an entry that a rule applied to.
    pub fn count(&self, number: usize) {
        if let Some(rule) = self.rules.get(number) {
            rule.files.fetch_add(1, Relaxed);
        }
    }

    /// Returns to how many entries each rule applied.
    pub fn counts(&self) -> Vec<u64> {
        self.rules.iter().map(|rule| rule.files.load(Relaxed)).collect()
    }
}

fn patterns(patterns: &[String]) -> Vec<&str> {
    patterns.iter().map(String::as_str).collect()
}

#[cfg(test)]
mod tests {
    use common::sanitize::{FileRule, Find, Mask, With};

    use super::*;

    fn rule(pattern: &str, action: Action) -> FileRule {
        FileRule { patterns: vec![pattern.to_owned()], action }
    }

    fn mask(find: Find) -> Action {
        Action::Mask(Mask { find: vec![find], regex: Vec::new(), with: With::Filler })
    }

    fn sanitizer() -> Sanitizer {
        let files = vec![
            rule("*.sql", mask(Find::Email)),
            rule("*.sql", mask(Find::Token)),
            rule("/config.php", Action::Replace("<?php\n".to_owned())),
            rule("config.php", mask(Find::Token)),
            rule("secret/", Action::Drop),
        ];
        Sanitizer::new(&Sanitize { key: None, key_version: None, files }, None).unwrap()
    }

    fn path(text: &str) -> RelPath {
        RelPath::try_from(text.as_bytes().to_vec()).unwrap()
    }

    #[test]
    fn drop_wins_over_replace_and_replace_over_masks() {
        let sanitizer = sanitizer();
        for (text, expected) in [
            ("a/dump.sql", Treatment::Masked(vec![0, 1])),
            ("config.php", Treatment::Replaced(2)),
            ("sub/config.php", Treatment::Masked(vec![3])),
            ("a/secret/dump.sql", Treatment::Dropped(4)),
            ("a/secret/b/c", Treatment::Dropped(4)),
            ("a/secret", Treatment::Kept),
            ("a/plain.txt", Treatment::Kept),
        ] {
            assert_eq!(sanitizer.treatment_of(&path(text)), expected, "{text}");
        }
        assert_eq!(sanitizer.treatment(&path("a"), b"secret", true), Treatment::Dropped(4));
    }

    #[test]
    fn every_mask_of_a_file_is_applied_and_what_is_no_text_is_refused() {
        let sanitizer = sanitizer();
        let mut content = b"a@example.com password=hunter22 x".to_vec();
        sanitizer.mask(&[0, 1], &mut content).unwrap();
        assert_eq!(content, b"x@xxxxxxx.qqq password=xxxxxx00 x");
        assert_eq!(sanitizer.mask(&[0], &mut [0, 1, 2]), Err(Unmaskable::Binary));
    }
}
