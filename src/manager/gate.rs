//! Runs the command that decides after a wave whether a run goes on.

use std::fs::File;
use std::io::{Read as _, Seek as _, SeekFrom};
use std::process::{Command, Stdio};
use std::time::Duration;

use crate::error::{Error, ErrorKind, Result};
use crate::event::GateResult;

/// How much of what a gate printed is kept, in bytes.
const KEPT_OUTPUT: u64 = 2_000;

/// Runs a command in `sh`, with these environment variables. Kills it once `is_interrupted` returns true.
pub(super) fn run_gate(
    command: &str,
    variables: &[(&str, String)],
    is_interrupted: &dyn Fn() -> bool,
) -> Result<GateResult> {
    let failed =
        |error: std::io::Error| Error::new(ErrorKind::Io, "cannot run the gate's command").caused_by(error);
    // A file takes any amount of output without a thread that reads it.
    let mut output = tempfile::tempfile().map_err(failed)?;
    let writer = || output.try_clone().map(Stdio::from).map_err(failed);
    let mut child = Command::new("sh")
        .args(["-c", command])
        .envs(variables.iter().map(|(name, value)| (*name, value)))
        .stdin(Stdio::null())
        .stdout(writer()?)
        .stderr(writer()?)
        .spawn()
        .map_err(failed)?;
    let status = loop {
        if let Some(status) = child.try_wait().map_err(failed)? {
            break status;
        }
        if is_interrupted() {
            child.kill().map_err(failed)?;
        }
        std::thread::sleep(Duration::from_millis(10));
    };
    let output = tail(&mut output).map_err(failed)?;
    Ok(GateResult { code: status.code(), output })
}

/// The end of a file, from the start of a line.
fn tail(file: &mut File) -> std::io::Result<String> {
    let skipped = file.metadata()?.len().saturating_sub(KEPT_OUTPUT);
    file.seek(SeekFrom::Start(skipped))?;
    let mut bytes = Vec::new();
    file.take(KEPT_OUTPUT).read_to_end(&mut bytes)?;
    let text = String::from_utf8_lossy(&bytes);
    let text = match text.split_once('\n') {
        Some((_, rest)) if skipped > 0 => rest,
        _ => &text,
    };
    Ok(text.trim_end().to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn run(command: &str, interrupted: bool) -> GateResult {
        run_gate(command, &[("TENANTRY_WAVE", "2".into())], &|| interrupted).unwrap()
    }

    #[test]
    fn a_gate_says_what_it_printed_and_how_it_ended() {
        let gate = run("echo wave $TENANTRY_WAVE; echo too slow >&2; exit 3", false);
        assert_eq!((gate.code, gate.output.as_str()), (Some(3), "wave 2\ntoo slow"));
        assert!(run("true", false).passed() && !run("kill -9 $$", false).passed());
        let much = run("i=0; while [ $i -lt 900 ]; do echo line $i; i=$((i + 1)); done", false).output;
        assert!(much.len() <= 2_000 && much.starts_with("line ") && much.ends_with("line 899"), "{much}");
        assert!(!run("sleep 60", true).passed());
    }
}
