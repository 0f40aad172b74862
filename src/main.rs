//! The command `tenantry`: parse, call, render one fatal error, exit code.
//!
//! It must not hold logic: everything it does, an application can do through the library.

mod cli;
mod report;

use std::process::ExitCode;

use clap::Parser as _;

/// Opening and closing a database takes hundreds of small allocations, in SQLite as well, which shares this allocator.
/// The system's gives the memory back to the kernel after each database and asks for it again for the next.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> ExitCode {
    let cli = match cli::Cli::try_parse() {
        Ok(cli) => cli,
        Err(error) => {
            let code = if error.use_stderr() { 2 } else { 0 };
            // Nowhere is left to say that this could not be said.
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
