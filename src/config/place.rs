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
                Err(Error::new(ErrorKind::Configuration, message).hint(known))
            }
        }
    }

    /// Where what tenantry keeps of a fleet is if nobody says otherwise: beside the projects; of a server's database, in the
    /// working folder.
    pub(super) fn own_folder(&self, kind: &str) -> PathBuf {
        match self {
            Self::Directory(directory) => directory.join(kind),
            #[cfg(feature = "postgres")]
            Self::Server(Url(url)) => {
                let path = url.split('?').next().unwrap_or_default();
                let name = path
                    .rsplit_once('@')
                    .map_or(path, |(_, rest)| rest)
                    .rsplit('/')
                    .next()
                    .unwrap_or_default();
                let is_plain = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'_' || byte == b'-';
                let is_name = !name.is_empty() && path.matches('/').count() > 2 && name.bytes().all(is_plain);
                Path::new(kind).join(if is_name { name } else { "default" })
            }
        }
    }
}
