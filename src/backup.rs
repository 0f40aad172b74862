//! Backups: a project's data, packed, with a manifest of all that its restored copy has to agree with.
//!
//! It must not know a database: stores copy projects to files and make projects of them, here files are kept.
//!
//! In a [`Destination`] each project has a folder with, for each backup, its data (`.zst`), its manifest (`.json`), which
//! comes last and is what makes it one, and a note of when it was verified (`.verified`).

mod archive;
mod destination;
mod manifest;
mod retention;

pub use archive::{Archive, Backup, BackupRequest, LastCheck};
pub use destination::{Destination, Directory, Workspace};
pub use manifest::{DataFile, Manifest, Reason};
pub use retention::RetentionPolicy;
