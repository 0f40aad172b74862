//! Shell completions and manual pages, generated from the command line's types.

use std::path::PathBuf;

use clap::{Args, CommandFactory as _};
use tenantry::{Error, Result};

use super::Cli;
use crate::report::Output;

#[derive(Args, Debug)]
pub(super) struct Completions {
    /// Shell to generate completions for
    #[arg(value_enum)]
    shell: clap_complete::Shell,
}

#[derive(Args, Debug)]
pub(super) struct ManPages {
    /// Folder to write a page for every command to
    #[arg(value_name = "DIR")]
    directory: Option<PathBuf>,
}

pub(super) fn completions(completions: &Completions) -> Result<u8> {
    let mut text = Vec::new();
    clap_complete::generate(completions.shell, &mut Cli::command(), "tenantry", &mut text);
    print(&text)
}

pub(super) fn man(man: ManPages) -> Result<u8> {
    if let Some(directory) = man.directory {
        std::fs::create_dir_all(&directory)
            .map_err(|error| Error::io("create the folder", &directory, error))?;
        clap_mangen::generate_to(Cli::command(), &directory)
            .map_err(|error| Error::io("write manual pages into", &directory, error))?;
        return Ok(0);
    }
    let mut text = Vec::new();
    clap_mangen::Man::new(Cli::command())
        .render(&mut text)
        .map_err(|error| Error::io("render", "the manual page".as_ref(), error))?;
    print(&text)
}

fn print(text: &[u8]) -> Result<u8> {
    let mut output = Output::new();
    output.bytes(text);
    output.finish()?;
    Ok(0)
}
