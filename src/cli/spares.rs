//! The `spares` command. Spares are empty, fully migrated schemas that are kept ready for new projects.

use serde_json::json;
use tenantry::store::Spares;
use tenantry::{Error, ErrorKind, Result};

use super::{Format, Settings};
use crate::report::{self, Output};

/// Creates spares in place of those that a command used or that belong to an older catalog. Called after the command's
/// work is done, so that nobody waits for it.
///
/// A failure is reported, but does not change the exit code. Does nothing if the command was interrupted.
pub(super) fn refill(settings: &Settings, code: u8) {
    const INTERRUPTED: u8 = 130;
    let top_up = || {
        let manager = settings.manager()?;
        if manager.store().spares().is_some() { manager.top_up_spares().map(|_| ()) } else { Ok(()) }
    };
    if code != INTERRUPTED
        && let Err(error) = top_up()
    {
        report::note(format_args!("cannot create spares: {}", error.summary()));
    }
}

pub(super) fn fill(settings: &Settings) -> Result<u8> {
    let manager = settings.manager()?;
    if manager.store().spares().is_none() {
        return Err(Error::new(ErrorKind::Configuration, "no spares are configured")
            .with_hint("set [store] spares = 8 in tenantry.toml, for a store on Postgres"));
    }
    let Spares { ready, made, removed, .. } = manager.top_up_spares()?;
    let mut output = Output::new();
    match settings.format {
        Format::Human => output.line(format_args!("{ready} ready, {made} created, {removed} removed")),
        Format::Json => {
            output
                .json(&json!({"v": 1, "event": "spares", "ready": ready, "made": made, "removed": removed}));
        }
    }
    output.finish()?;
    Ok(0)
}
