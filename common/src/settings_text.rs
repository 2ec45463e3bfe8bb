//! TOML that people write: what is wrong with it is said in one line, with its place.

use serde::de::DeserializeOwned;

/// Why a text is not what it should be.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("line {line}: {message}")]
pub struct InvalidText {
    /// Where, counted from one.
    pub line: usize,
    /// What.
    pub message: String,
}

/// Reads settings.
///
/// # Errors
/// When the text is not TOML, holds an unknown key, or a value of another kind.
pub fn read<T: DeserializeOwned>(text: &str) -> Result<T, InvalidText> {
    toml::from_str(text).map_err(|error| {
        let before = error.span().and_then(|span| text.get(..span.start)).unwrap_or_default();
        InvalidText { line: before.matches('\n').count() + 1, message: error.message().trim().to_owned() }
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Debug, PartialEq, serde::Deserialize)]
    #[serde(deny_unknown_fields)]
    struct Settings {
        name: String,
    }

    #[test]
    fn what_is_wrong_is_said_in_one_line_with_its_place() {
        let name = "web1".to_owned();
        assert_eq!(read("# a comment\nname = \"web1\"\n"), Ok(Settings { name }));
        let error = read::<Settings>("name = \"web1\"\nnam = 1\n").unwrap_err();
        assert_eq!((error.line, error.to_string().lines().count()), (2, 1), "{error}");
        assert!(error.to_string().starts_with("line 2: unknown field `nam`"), "{error}");
        assert!(read::<Settings>("name = [\n").unwrap_err().to_string().starts_with("line "));
    }
}
