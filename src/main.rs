//! The command `tenantry`: parses the arguments, runs the command, prints a fatal error and sets the exit code.

mod cli;
mod report;

use std::process::ExitCode;

/// Opening and closing a database makes hundreds of small allocations, also in SQLite, which uses this allocator too.
/// The system's allocator returns the memory to the kernel after each database and requests it again for the next.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> ExitCode {
    let cli = match cli::parse() {
        Ok(cli) => cli,
        Err(error) => {
            let code = if error.use_stderr() { 2 } else { 0 };
            // If printing fails, there is no other channel to report it on.
            let _ = error.print();
            return ExitCode::from(code);
        }
    };
    let format = cli.settings.format;
    match cli::run(cli) {
        Ok(code) => ExitCode::from(code),
        Err(error) => {
            report::fatal(&error, format);
            ExitCode::from(error.exit_code())
        }
    }
}
