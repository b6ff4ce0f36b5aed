//! Names that are safe in a key, a path, a service name and a log line.
//!
//! A name is checked once, where it enters; whoever holds one need not check again. No name can be `.` or `..`, hold a
//! slash, a space or a control character, or start with a dot (so none collides with our own `.store`, `.platypus`).

use std::borrow::Borrow;
use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

/// What is wrong with a name.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error(
    "{0:?} is not a name: letters, digits, '.', '_' and '-', the first a letter or a digit, at most {MOST} of them"
)]
pub struct BadName(String);

/// The longest name. `<app>_<version>`, with what goes before and behind it, has to be a file's name, which has 255 bytes.
const MOST: usize = 100;

/// True for `[A-Za-z0-9][A-Za-z0-9._-]*`, of 100 characters at the most.
pub fn is_name(text: &str) -> bool {
    let rest = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '_' | '-');
    text.len() <= MOST && text.starts_with(|c: char| c.is_ascii_alphanumeric()) && text.chars().all(rest)
}

/// One kind of name: a string that [`is_name`] accepts, with a type of its own.
macro_rules! name {
    ($(#[$doc:meta])* $name:ident) => {
        $(#[$doc])*
        #[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
        #[serde(try_from = "String", into = "String")]
        pub struct $name(String);

        impl $name {
            pub fn as_str(&self) -> &str {
                &self.0
            }
        }

        impl TryFrom<String> for $name {
            type Error = BadName;
            fn try_from(text: String) -> Result<Self, BadName> {
                if is_name(&text) { Ok(Self(text)) } else { Err(BadName(text)) }
            }
        }

        impl FromStr for $name {
            type Err = BadName;
            fn from_str(text: &str) -> Result<Self, BadName> {
                Self::try_from(text.to_owned())
            }
        }

        impl From<$name> for String {
            fn from(name: $name) -> String {
                name.0
            }
        }

        impl Borrow<str> for $name {
            fn borrow(&self) -> &str {
                &self.0
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&self.0)
            }
        }
    };
}

name!(
    /// A host, as intent calls it: `nodes/<node>/…`.
    NodeName
);
name!(
    /// A deployable piece of software.
    AppName
);
name!(
    /// A set of nodes that run one app with one configuration.
    ClusterName
);
name!(
    /// A version of an app. Versions have no order.
    Version
);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_cannot_leave_its_directory_or_hide() {
        for good in ["a", "slug", "0.1.0", "A-b_c.d", "9"] {
            assert!(good.parse::<AppName>().is_ok(), "{good}");
        }
        for bad in ["", ".", "..", ".store", "-x", "_x", "a/b", "/../../x", "a b", "a\n", "a\0", "é", "a@b"] {
            assert!(bad.parse::<AppName>().is_err(), "{bad:?}");
        }
        assert!(is_name(&"a".repeat(MOST)) && !is_name(&"a".repeat(MOST + 1)));
    }
}
