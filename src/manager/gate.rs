//! Runs the command that decides after a wave whether a run goes on.

use std::fs::File;
use std::io::{Read as _, Seek as _, SeekFrom};
use std::os::unix::process::CommandExt as _;
use std::process::{Command, Stdio};
use std::time::Duration;

use rustix::process::{Pid, Signal, kill_process_group};

use crate::event::GateResult;

/// How much of what a gate printed is kept, in bytes.
const KEPT_OUTPUT: u64 = 2_000;

/// Runs a command in `sh`, with these environment variables. Kills it, and what it started, once `is_interrupted` returns
/// true. A command that cannot be started has failed.
pub(super) fn run_gate(
    command: &str,
    variables: &[(&str, String)],
    is_interrupted: &dyn Fn() -> bool,
) -> GateResult {
    run(command, variables, is_interrupted)
        .unwrap_or_else(|error| GateResult { code: None, output: format!("it could not be run: {error}") })
}

fn run(
    command: &str,
    variables: &[(&str, String)],
    is_interrupted: &dyn Fn() -> bool,
) -> std::io::Result<GateResult> {
    // A file takes any amount of output without a thread that reads it.
    let mut output = tempfile::tempfile()?;
    let writer = || output.try_clone().map(Stdio::from);
    let mut child = Command::new("sh")
        .args(["-c", command])
        .envs(variables.iter().map(|(name, value)| (*name, value)))
        .stdin(Stdio::null())
        .stdout(writer()?)
        .stderr(writer()?)
        // A group of its own, so that everything in it can be killed.
        .process_group(0)
        .spawn()?;
    let status = loop {
        if let Some(status) = child.try_wait()? {
            break status;
        }
        if is_interrupted()
            && let Some(group) = Pid::from_raw(child.id().cast_signed())
        {
            // It may have ended just now.
            let _ = kill_process_group(group, Signal::KILL);
        }
        std::thread::sleep(Duration::from_millis(10));
    };
    let output = tail(&mut output)?;
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

    fn gate(command: &str, interrupted: bool) -> GateResult {
        run_gate(command, &[("TENANTRY_WAVE", "2".into())], &|| interrupted)
    }

    #[test]
    fn a_gate_says_what_it_printed_and_how_it_ended() {
        let result = gate("echo wave $TENANTRY_WAVE; echo too slow >&2; exit 3", false);
        assert_eq!((result.code, result.output.as_str()), (Some(3), "wave 2\ntoo slow"));
        assert!(gate("true", false).passed() && !gate("kill -9 $$", false).passed());
        let much = gate("i=0; while [ $i -lt 900 ]; do echo line $i; i=$((i + 1)); done", false).output;
        assert!(much.len() <= 2_000 && much.starts_with("line ") && much.ends_with("line 899"), "{much}");
        assert!(!gate("sleep 60", true).passed());
    }

    #[test]
    fn what_an_interrupted_gate_has_started_is_killed_as_well() {
        let file = tempfile::NamedTempFile::new().unwrap();
        let command = format!("sleep 61 & echo $! > '{}'; wait", file.path().display());
        let pid = || std::fs::read_to_string(file.path()).unwrap().trim().to_string();
        assert!(!run_gate(&command, &[], &|| !pid().is_empty()).passed());
        // It is gone, or waits as a zombie for somebody to take note.
        let is_alive = || {
            let stat = std::fs::read_to_string(format!("/proc/{}/stat", pid())).unwrap_or_default();
            !stat.is_empty() && !stat.contains(") Z ")
        };
        let started = std::time::Instant::now();
        while is_alive() {
            assert!(started.elapsed() < Duration::from_secs(5), "the gate's sleep goes on");
        }
    }
}
