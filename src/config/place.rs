//! Where projects are, by a URL.
//!
//! It must not connect to anything, and must not show what may hold a password.

#[cfg(feature = "postgres")]
use std::path::Path;
use std::path::PathBuf;

use crate::error::{Error, ErrorKind, Result};

/// Where the projects are, by its URL.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Place {
    /// A folder of SQLite files.
    Directory(PathBuf),
    /// A Postgres database.
    #[cfg(feature = "postgres")]
    Server(Url),
}

/// A URL that may have a password in it, and so is never shown.
#[cfg(feature = "postgres")]
#[derive(Clone, PartialEq, Eq)]
pub(super) struct Url(pub(super) String);

#[cfg(feature = "postgres")]
impl std::fmt::Debug for Url {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("postgres://...")
    }
}

impl Place {
    pub(super) fn is_directory(&self) -> bool {
        matches!(self, Self::Directory(_))
    }

    pub(super) fn parse(url: &str) -> Result<Self> {
        match url.split_once(':') {
            Some(("sqlite", directory)) if !directory.is_empty() && !directory.starts_with("//") => {
                Ok(Self::Directory(PathBuf::from(directory)))
            }
            #[cfg(feature = "postgres")]
            Some(("postgres" | "postgresql", _)) => Ok(Self::Server(Url(url.into()))),
            // What follows the scheme may hold a password, so it is not repeated.
            scheme => {
                let scheme = scheme.map_or(url, |(scheme, _)| scheme);
                let is_plain = scheme.bytes().all(|byte| byte.is_ascii_alphanumeric()) && scheme.len() < 20;
                let scheme = if is_plain { scheme } else { "..." };
                let known = if cfg!(feature = "postgres") {
                    "a store is a folder of SQLite files, such as sqlite:data or sqlite:/srv/data, or a Postgres database, \
                     such as postgres://user@host/database"
                } else {
                    "a store is a folder of SQLite files, such as sqlite:data or sqlite:/srv/data; this tenantry was built \
                     without its feature postgres"
                };
                let message = format!("cannot open a store of the kind {scheme:?}");
                Err(Error::new(ErrorKind::Configuration, message).with_hint(known))
            }
        }
    }

    /// Where what tenantry keeps of a fleet is if nobody says otherwise: beside the projects; of a server's database, in the
    /// working folder.
    pub(super) fn own_folder(&self, kind: &str) -> PathBuf {
        match self {
            Self::Directory(directory) => directory.join(kind),
            #[cfg(feature = "postgres")]
            Self::Server(Url(url)) => Path::new(kind).join(crate::store::postgres::folder_name(url)),
        }
    }
}

#[cfg(all(test, feature = "postgres"))]
mod tests {
    use super::*;

    #[test]
    fn the_databases_of_two_servers_have_two_folders() {
        for (url, folder) in [
            (
                "postgres://app:pass@word@db.example.com:5433/fleet?sslmode=require",
                "fleet@db.example.com-5433",
            ),
            ("postgres://localhost/fleet", "fleet@localhost"),
            ("postgresql:///fleet?host=/run/postgresql", "fleet@run-postgresql-df8738d7"),
            ("postgresql:///fleet?host=/other/postgresql", "fleet@other-postgresql-14e90997"),
            ("postgres://user@[::1]/fleet", "fleet@1-eff8e7ca"),
            ("postgres://user@:5433/fleet", "fleet@local-5433"),
            ("postgres://host/..", "database-5ec1f7e7@host"),
            ("postgres://host", "default@host"),
        ] {
            assert_eq!(
                Place::parse(url).unwrap().own_folder("backups"),
                Path::new("backups").join(folder),
                "{url}"
            );
        }
    }
}
