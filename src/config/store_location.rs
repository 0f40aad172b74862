//! The URL of a store, parsed. It may contain a password, so neither errors nor `Debug` show it.

#[cfg(feature = "postgres")]
use std::path::Path;
use std::path::PathBuf;

use crate::error::{Error, ErrorKind, Result};

/// The location of a store.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum StoreLocation {
    /// A folder of SQLite files.
    Directory(PathBuf),
    /// A Postgres database.
    #[cfg(feature = "postgres")]
    Server(Url),
}

/// A URL that is never printed, since it may contain a password.
#[cfg(feature = "postgres")]
#[derive(Clone, PartialEq, Eq)]
pub(super) struct Url(pub(super) String);

#[cfg(feature = "postgres")]
impl std::fmt::Debug for Url {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("postgres://...")
    }
}

impl StoreLocation {
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
            // A path without a kind, or a kind without a path.
            None if !url.contains('=') => Err(Error::new(
                ErrorKind::Configuration,
                format!("the store {url:?} does not say of which kind it is"),
            )
            .with_hint(format!("for a folder of SQLite files: --store sqlite:{url}"))),
            Some(("sqlite", "")) => Err(Error::new(ErrorKind::Configuration, "sqlite: names no folder")
                .with_hint("add the folder, such as sqlite:data")),
            // The error names only the scheme: the rest of the URL may contain a password.
            scheme => {
                let scheme = scheme.map_or(url, |(scheme, _)| scheme);
                let is_plain = scheme.bytes().all(|byte| byte.is_ascii_alphanumeric()) && scheme.len() < 20;
                let scheme = if is_plain { scheme } else { "..." };
                let hint = if cfg!(feature = "postgres") {
                    "use a folder of SQLite files, such as sqlite:data or sqlite:/srv/data, or a Postgres database, \
                     such as postgres://user@host/database"
                } else {
                    "use a folder of SQLite files, such as sqlite:data or sqlite:/srv/data; this tenantry was built \
                     without the feature postgres"
                };
                let message = format!("unsupported kind of store {scheme:?}");
                Err(Error::new(ErrorKind::Configuration, message).with_hint(hint))
            }
        }
    }

    /// Returns the default folder for backups or the journal: next to the SQLite files, or, for Postgres, in the
    /// current folder.
    pub(super) fn default_folder(&self, kind: &str) -> PathBuf {
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
                StoreLocation::parse(url).unwrap().default_folder("backups"),
                Path::new("backups").join(folder),
                "{url}"
            );
        }
    }
}
