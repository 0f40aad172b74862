//! Backups: a compressed snapshot of a project, with a manifest that a restored copy is compared with.
//!
//! Only stores and deletes files; [`Store`](crate::store::Store) takes and restores snapshots.
//!
//! A [`Destination`] has a folder for each project. A backup is three files in it: the data (`.zst`), the manifest
//! (`.json`) and the last verification (`.verified`). The manifest is written last: without it, there is no backup.

mod archive;
mod destination;
mod manifest;
mod packing;
mod retention;

pub use archive::{Archive, Backup, BackupRequest, LastCheck};
pub use destination::{Destination, Directory, Workspace};
pub use manifest::{DataFile, Manifest, Reason};
pub use retention::RetentionPolicy;
