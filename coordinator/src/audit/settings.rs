//! The part `[audit]` of the settings.

use std::path::PathBuf;

use common::failure::{Failure, FailureKind};
use serde::Deserialize;

use crate::state::audit::{LINES_MAX, PAGE_LINES_MAX};

/// How the audit is kept.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct AuditSettings {
    /// Lines of one page.
    pub page_lines: u64,
    /// The newest lines, which stay in the state.
    pub lines_kept: usize,
    /// How often the chain is anchored, if anything was written since.
    pub anchor_minutes: u32,
    /// The file that anchors are appended to.
    pub anchor_file: Option<PathBuf>,
    /// The URL that anchors are posted to, `https://…` or `http://…`.
    pub anchor_webhook: Option<String>,
    /// The certificates that the webhook's is checked by, in PEM; by default those of the system.
    pub anchor_webhook_ca: Option<PathBuf>,
}

impl Default for AuditSettings {
    fn default() -> Self {
        Self {
            page_lines: 1_000,
            lines_kept: 10_000,
            anchor_minutes: 10,
            anchor_file: None,
            anchor_webhook: None,
            anchor_webhook_ca: None,
        }
    }
}

impl AuditSettings {
    /// Refuses what cannot work.
    ///
    /// # Errors
    /// With the first setting that does not fit.
    pub fn check(&self) -> Result<(), Failure> {
        let refuse = |setting: &str, message: String| {
            Err(Failure::new(FailureKind::Invalid, format!("the setting `audit.{setting}`: {message}"))
                .hint("leave it out for the default"))
        };
        if !(1..=PAGE_LINES_MAX).contains(&self.page_lines) {
            return refuse("page_lines", format!("a page has 1 to {PAGE_LINES_MAX} lines"));
        }
        // What is kept, a page that is being closed, and as much again for pages that cannot leave yet.
        let kept_max = LINES_MAX - usize::try_from(PAGE_LINES_MAX).unwrap_or(0) * 2;
        if self.lines_kept > kept_max {
            return refuse("lines_kept", format!("at most {kept_max} lines stay in the state"));
        }
        if self.anchor_minutes == 0 {
            return refuse("anchor_minutes", "it is at least 1".to_owned());
        }
        if let Some(url) = &self.anchor_webhook
            && let Err(message) = super::webhook::Target::parse(url)
        {
            return refuse("anchor_webhook", message);
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_cannot_work_is_refused_by_name() {
        let check = |text: &str| toml::from_str::<AuditSettings>(text).unwrap().check();
        assert_eq!(check(""), Ok(()));
        assert_eq!(check("anchor_webhook = \"https://a.example:8443/hook?x=1\""), Ok(()));
        for (text, setting) in [
            ("page_lines = 0", "page_lines"),
            ("page_lines = 5000", "page_lines"),
            ("lines_kept = 20000", "lines_kept"),
            ("anchor_minutes = 0", "anchor_minutes"),
            ("anchor_webhook = \"ftp://x\"", "anchor_webhook"),
        ] {
            let refused = check(text).unwrap_err();
            assert!(refused.message.contains(setting), "{refused}");
        }
        assert!(toml::from_str::<AuditSettings>("anchor = 1").is_err());
    }
}
