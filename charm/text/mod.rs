//! Text that comes from outside: parsed into a type at the door, printed from the type behind it.
//!
//! Databags, the member list, options, action parameters, the answers of hook tools and files found on
//! disk are written by others. What of them reaches a file, a command line, a log or a status is one of
//! these types. A parser either refuses or gives a value whose printed form means the same to a shell, to
//! systemd, to YAML and to a terminal: nothing but itself.

mod line;
mod name;
mod path;
mod pem;
mod url;

pub use line::{Line, quoted};
pub use name::{CommonName, HostName, InitialCluster, MemberName, RelationId, SecretId, StorageId, Version, Word};
pub use path::Folder;
pub use pem::plain_certificate;
pub use url::{ClientUrl, PeerUrl, UrlList};

/// A type over a text that only its parser makes. Reads like a `str`, and writes and reads as a string
/// of a settings file.
macro_rules! parsed_text {
    ($(#[$doc:meta])* $name:ident, $parse:expr) => {
        $(#[$doc])*
        #[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, serde::Serialize, serde::Deserialize)]
        #[serde(try_from = "String", into = "String")]
        pub struct $name(String);

        impl $name {
            /// Reads a text; `None` for anything that is not one.
            #[must_use]
            pub fn parse(text: &str) -> Option<Self> {
                let parse: fn(&str) -> Option<String> = $parse;
                parse(text).map($name)
            }
        }

        impl std::ops::Deref for $name {
            type Target = str;
            fn deref(&self) -> &str {
                &self.0
            }
        }

        impl std::fmt::Display for $name {
            fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                f.write_str(&self.0)
            }
        }

        impl std::fmt::Debug for $name {
            fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                std::fmt::Debug::fmt(&self.0, f)
            }
        }

        impl PartialEq<str> for $name {
            fn eq(&self, other: &str) -> bool {
                self.0 == other
            }
        }

        impl PartialEq<&str> for $name {
            fn eq(&self, other: &&str) -> bool {
                self.0 == *other
            }
        }

        impl PartialEq<String> for $name {
            fn eq(&self, other: &String) -> bool {
                self.0 == *other
            }
        }

        impl TryFrom<String> for $name {
            type Error = String;
            fn try_from(text: String) -> Result<Self, String> {
                $name::parse(&text).ok_or_else(|| concat!("not a ", stringify!($name)).to_owned())
            }
        }

        impl From<$name> for String {
            fn from(value: $name) -> String {
                value.0
            }
        }

        #[cfg(test)]
        impl From<&str> for $name {
            fn from(text: &str) -> Self {
                $name::parse(text).unwrap_or_else(|| panic!("{text:?} is not a {}", stringify!($name)))
            }
        }
    };
}
use parsed_text;

#[cfg(test)]
mod tests;
