//! The commands that write a project as plain SQL, and make one of it.

use std::fs::OpenOptions;
use std::io::{BufWriter, Write as _};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::PathBuf;

use clap::Args;
use tenantry::event::Verdict;
use tenantry::manager::{Operation, Run, Safety, Selection};
use tenantry::{Error, ErrorKind, ProjectId, Result};

use super::Settings;
use super::fleet::carry_out;

#[derive(Args, Debug)]
pub(super) struct Export {
    /// The project
    #[arg(value_name = "ID")]
    id: String,
    /// Where to, a file that is not there yet [default: standard output]
    #[arg(long, short, value_name = "FILE")]
    output: Option<PathBuf>,
}

#[derive(Args, Debug)]
pub(super) struct Import {
    /// The project to be made
    #[arg(value_name = "NEWID")]
    id: String,
    /// What sqlite3 .dump, wrangler d1 export, pg_dump --schema or tenantry export wrote
    #[arg(value_name = "FILE")]
    file: PathBuf,
}

pub(super) fn export(settings: &Settings, export: &Export) -> Result<u8> {
    let id: ProjectId = export.id.parse()?;
    let manager = settings.manager()?;
    match &export.output {
        None => {
            let mut out = BufWriter::new(std::io::stdout().lock());
            manager.export(&id, &mut out)?;
            out.flush()
                .map_err(|error| Error::new(ErrorKind::Io, "cannot write the export").caused_by(error))?;
        }
        Some(path) => {
            let failed = |error| Error::io("write", path, error);
            let file =
                OpenOptions::new().write(true).create_new(true).mode(0o600).open(path).map_err(failed)?;
            let mut out = BufWriter::new(file);
            let written = manager
                .export(&id, &mut out)
                .and_then(|()| out.flush().and_then(|()| out.get_ref().sync_all()).map_err(failed));
            if let Err(error) = written {
                // Half an export is none; the error that counts is the first.
                let _ = std::fs::remove_file(path);
                return Err(error);
            }
        }
    }
    Ok(0)
}

pub(super) fn import(settings: &Settings, import: Import) -> Result<u8> {
    let selection = Selection::Ids(vec![import.id.parse()?]);
    let run = Run {
        command: "import",
        selection,
        operation: Operation::Import(import.file),
        dry_run: false,
        safety: Safety::None,
        may_lose_rows: Vec::new(),
        max_failures: None,
        verdict: Verdict::default(),
    };
    carry_out(settings, &settings.manager()?, &run)
}
