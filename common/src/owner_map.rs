//! Whose a file becomes at the destination, where that is not the owner of the same name: `FROM:TO,…`, as rsync's
//! `--usermap` and `--groupmap` have it.
//!
//! FROM is a name, in which `*`, `?` and `[…]` stand for letters as in patterns; a number; a range of numbers as
//! `1000-1999`; `*`, which is everybody; or nothing, which is every number without a name at the source. TO is a name
//! or a number of the destination. The first rule that matches counts, and ACLs follow.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use crate::filter::Filter;

/// Rules of one map; each is asked for each entry.
const RULES_MAX: usize = 256;
/// The longest name of a user or a group.
const NAME_BYTES_MAX: usize = 256;

/// Rules in their order.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct OwnerMap(Vec<OwnerRule>);

/// One rule.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct OwnerRule {
    /// Whom it is about.
    pub from: Whom,
    /// Who that becomes.
    pub to: Account,
}

/// Owners at the source.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Whom {
    /// Everybody.
    All,
    /// Numbers without a name.
    Nameless,
    /// Names that match a pattern.
    Named(String),
    /// Numbers of a range, both ends included.
    Numbered(u32, u32),
}

/// An owner at the destination.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Account {
    /// By name.
    Name(String),
    /// By number.
    Number(u32),
}

/// Why a text is no map.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum InvalidOwnerMap {
    /// A rule that is none.
    #[error(
        "`{0}` does not say whose becomes whose: write FROM:TO, as www:nginx, 1000-1999:shop or *:nobody, and a comma between two"
    )]
    Rule(String),
    /// There are too many.
    #[error("a map of owners has more than {RULES_MAX} rules")]
    TooMany,
    /// An owner that is none.
    #[error("`{0}` is no owner: write USER, USER:GROUP or :GROUP")]
    Owner(String),
}

impl OwnerMap {
    /// Whether everybody stays who he is.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Returns the rules, the first that matches counts.
    pub fn rules(&self) -> &[OwnerRule] {
        &self.0
    }

    /// Returns the maps of users and of groups that give everything to `USER:GROUP`; either may be left out.
    ///
    /// # Errors
    /// When the text names neither, or is no such pair.
    pub fn of_owner(text: &str) -> Result<(Self, Self), InvalidOwnerMap> {
        let invalid = || InvalidOwnerMap::Owner(text.to_owned());
        let (user, group) = text.split_once(':').unwrap_or((text, ""));
        let all = |to: &str| match to {
            "" => Ok(Self::default()),
            to => Ok(Self(vec![OwnerRule { from: Whom::All, to: account(to).ok_or_else(invalid)? }])),
        };
        if user.is_empty() && group.is_empty() {
            return Err(invalid());
        }
        Ok((all(user)?, all(group)?))
    }
}

impl FromStr for OwnerMap {
    type Err = InvalidOwnerMap;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        if text.is_empty() {
            return Ok(Self::default());
        }
        let rule = |text: &str| {
            let (from, to) = text.split_once(':')?;
            Some(OwnerRule { from: whom(from)?, to: account(to)? })
        };
        let rules: Vec<OwnerRule> = text
            .split(',')
            .map(|text| rule(text).ok_or_else(|| InvalidOwnerMap::Rule(text.to_owned())))
            .collect::<Result<_, _>>()?;
        if rules.len() > RULES_MAX { Err(InvalidOwnerMap::TooMany) } else { Ok(Self(rules)) }
    }
}

fn whom(text: &str) -> Option<Whom> {
    if text.is_empty() {
        return Some(Whom::Nameless);
    }
    if text.bytes().all(|byte| byte == b'*') {
        return Some(Whom::All);
    }
    if text.starts_with(|first: char| first.is_ascii_digit()) {
        let (low, high) = text.split_once('-').unwrap_or((text, text));
        let (low, high) = (low.parse().ok()?, high.parse().ok()?);
        return (low <= high).then_some(Whom::Numbered(low, high));
    }
    let is_name = is_name(text) && !text.starts_with('!') && Filter::new(&[text], &[]).is_ok();
    is_name.then(|| Whom::Named(text.to_owned()))
}

fn account(text: &str) -> Option<Account> {
    if text.starts_with(|first: char| first.is_ascii_digit()) {
        // The largest number means "leave it as it is" to the kernel.
        return text.parse().ok().filter(|number| *number != u32::MAX).map(Account::Number);
    }
    (is_name(text) && !text.contains(['*', '?', '['])).then(|| Account::Name(text.to_owned()))
}

fn is_name(text: &str) -> bool {
    let is_letter = |letter: char| !letter.is_control() && !matches!(letter, '/' | ':' | ',');
    !text.is_empty() && text.len() <= NAME_BYTES_MAX && text.chars().all(is_letter)
}

impl fmt::Display for OwnerMap {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (number, OwnerRule { from, to }) in self.0.iter().enumerate() {
            if number > 0 {
                formatter.write_str(",")?;
            }
            match from {
                Whom::All => formatter.write_str("*")?,
                Whom::Nameless => {}
                Whom::Named(name) => formatter.write_str(name)?,
                Whom::Numbered(low, high) if low == high => write!(formatter, "{low}")?,
                Whom::Numbered(low, high) => write!(formatter, "{low}-{high}")?,
            }
            match to {
                Account::Name(name) => write!(formatter, ":{name}")?,
                Account::Number(number) => write!(formatter, ":{number}")?,
            }
        }
        Ok(())
    }
}

impl TryFrom<String> for OwnerMap {
    type Error = InvalidOwnerMap;

    fn try_from(text: String) -> Result<Self, Self::Error> {
        text.parse()
    }
}

impl From<OwnerMap> for String {
    fn from(map: OwnerMap) -> Self {
        map.to_string()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn maps_are_read_and_written_alike() {
        for text in ["", "www:nginx", "*:nobody", ":99", "1000-1999:shop,7:8,ad*:root"] {
            assert_eq!(text.parse::<OwnerMap>().unwrap().to_string(), text);
        }
        let rules = "0-9:5".parse::<OwnerMap>().unwrap();
        assert_eq!(rules.rules(), [OwnerRule { from: Whom::Numbered(0, 9), to: Account::Number(5) }]);
    }

    #[test]
    fn what_is_no_map_is_refused() {
        for text in [
            "www",
            "a:",
            "a:b,",
            "9-1:x",
            "1-x:y",
            "a:b:c",
            "a:b*",
            "[:b",
            "!a:b",
            "a:4294967295",
            "1x:b",
            "a/b:c",
        ] {
            assert!(text.parse::<OwnerMap>().is_err(), "{text}");
        }
        assert!("a:b,".repeat(300).trim_end_matches(',').parse::<OwnerMap>().is_err());
    }

    #[test]
    fn an_owner_is_two_maps() {
        let texts =
            |text: &str| OwnerMap::of_owner(text).map(|(user, group)| (user.to_string(), group.to_string()));
        assert_eq!(texts("www:web"), Ok(("*:www".to_owned(), "*:web".to_owned())));
        assert_eq!(texts("www"), Ok(("*:www".to_owned(), String::new())));
        assert_eq!(texts(":web"), Ok((String::new(), "*:web".to_owned())));
        for text in ["", ":", "a:b:c", "a b*"] {
            assert!(texts(text).is_err(), "{text}");
        }
    }
}
