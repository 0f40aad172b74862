//! The `export` and `import` commands.

use std::io::{BufWriter, Write as _};
use std::path::{Path, PathBuf};

use clap::Args;
use tenantry::manager::{Operation, Run, Selection};
use tenantry::{Error, ErrorKind, ProjectId, Result};

use super::Settings;
use super::fleet::run_and_report;

#[derive(Args, Debug)]
pub(super) struct Export {
    /// Project to export
    #[arg(value_name = "ID")]
    id: String,
    /// Output file, which must not exist [default: standard output]
    #[arg(long, short, value_name = "FILE")]
    output: Option<PathBuf>,
    /// Replace an existing output file
    #[arg(long, requires = "output")]
    force: bool,
}

#[derive(Args, Debug)]
pub(super) struct Import {
    /// Id of the new project
    #[arg(value_name = "NEWID")]
    id: String,
    /// File written by sqlite3 .dump, wrangler d1 export, pg_dump --schema or tenantry export
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
            if path.symlink_metadata().is_ok() && !export.force {
                return Err(Error::new(
                    ErrorKind::AlreadyExists,
                    format!("cannot write {}: it already exists", path.display()),
                )
                .with_hint("give another file, or replace this one: --force"));
            }
            let failed = |error| Error::io("write", path, error);
            let folder = path.parent().filter(|it| !it.as_os_str().is_empty()).unwrap_or(Path::new("."));
            // A temporary file, readable only by its owner, is renamed when the export is complete.
            let mut out = BufWriter::new(tempfile::NamedTempFile::new_in(folder).map_err(failed)?);
            manager.export(&id, &mut out)?;
            let file = out.into_inner().map_err(|error| failed(error.into_error()))?;
            file.as_file().sync_all().map_err(failed)?;
            let renamed = if export.force { file.persist(path) } else { file.persist_noclobber(path) };
            renamed.map_err(|error| failed(error.error))?;
        }
    }
    Ok(0)
}

pub(super) fn import(settings: &Settings, import: Import) -> Result<u8> {
    let selection = Selection::Ids(vec![import.id.parse()?]);
    let run = Run::new(selection, Operation::Import(import.file));
    run_and_report(settings, &settings.manager()?, &run)
}
