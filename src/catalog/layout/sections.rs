//! Files with a section for each direction: dbmate's and goose's. Also the comments with which other tools begin sections,
//! which are refused.

use super::{Source, SqlFile, Way, file_name, version_and_name};
use crate::catalog::metadata::Transaction;
use crate::error::{Error, ErrorKind, Result};
use crate::sql::line_number;

/// What a line with a tool's annotation says.
pub(super) enum Annotation {
    Up,
    Down,
    /// For the section in which it stands.
    NoTransaction,
    /// For the whole file.
    NoTransactions,
    Nothing,
}

type ReadLine = fn(&str) -> std::result::Result<Vec<Annotation>, String>;

/// What follows a tag in a comment, such as `up` in `-- migrate:up`. Tools allow white space before the tag.
pub(super) fn annotation<'a>(line: &'a str, tag: &str) -> Option<&'a str> {
    line.trim_start().strip_prefix("--")?.trim_start().strip_prefix(tag)
}

/// Fails on a comment that begins an undo section of an unknown tool. Its statements would run with the migration.
pub(super) fn refuse_unknown_sections((path, text): &SqlFile) -> Result<()> {
    match text.lines().position(begins_undo_section) {
        None => Ok(()),
        Some(index) => Err(Error::new(ErrorKind::Catalog, "the section belongs to a tool that is not known")
            .at(path, line_number(index + 1))
            .with_hint("put the statements that undo the migration into a file of their own: <version>_<name>.down.sql")),
    }
}

fn begins_undo_section(line: &str) -> bool {
    let line = line.trim_start();
    let Some(comment) = line.strip_prefix("--").or_else(|| line.strip_prefix('#')) else { return false };
    let words = || comment.split(|it: char| !it.is_alphanumeric()).map(str::to_ascii_lowercase);
    // tern's line is `---- create above / drop below ----`.
    let is_terns = comment.starts_with("--") && words().any(|word| word == "below");
    let is_marked = comment.trim_start().starts_with(['+', '!', '@']);
    is_terns || (is_marked && words().any(|word| matches!(word.as_str(), "down" | "undo" | "rollback")))
}

/// Reads Atlas' directives, which are comments such as `-- atlas:txmode none`. Returns how the script runs. Fails on a
/// directive that changes what the script means in another way.
pub(super) fn atlas_transaction((path, text): &SqlFile) -> Result<Option<Transaction>> {
    let mut transaction = None;
    for (index, line) in text.lines().enumerate() {
        let Some(directive) = annotation(line, "atlas:") else { continue };
        let words: Vec<&str> = directive.split_whitespace().collect();
        match words.as_slice() {
            ["txmode", "none"] => transaction = Some(Transaction::None),
            ["txmode", "file" | "all"] => transaction = Some(Transaction::Shared),
            ["nolint", ..] => {}
            _ => {
                return Err(Error::new(ErrorKind::Catalog, format!("atlas:{directive} is not supported"))
                    .at(path, line_number(index + 1))
                    .with_hint("remove the directive, and write what it does as SQL"));
            }
        }
    }
    Ok(transaction)
}

pub(super) fn dbmate_line(line: &str) -> std::result::Result<Vec<Annotation>, String> {
    let Some(rest) = annotation(line, "migrate:") else { return Ok(Vec::new()) };
    let mut words = rest.split_whitespace();
    let mut found = match words.next() {
        Some("up") => vec![Annotation::Up],
        Some("down") => vec![Annotation::Down],
        other => return Err(format!("unknown section {:?}", other.unwrap_or_default())),
    };
    for option in words {
        match option {
            "transaction:true" => {}
            "transaction:false" => found.push(Annotation::NoTransaction),
            other => return Err(format!("unknown option {other:?}")),
        }
    }
    Ok(found)
}

pub(super) fn goose_line(line: &str) -> std::result::Result<Vec<Annotation>, String> {
    let Some(rest) = annotation(line, "+goose") else { return Ok(Vec::new()) };
    Ok(vec![match rest.trim().to_ascii_lowercase().as_str() {
        "up" => Annotation::Up,
        "down" => Annotation::Down,
        "no transaction" => Annotation::NoTransactions,
        // The tokenizer finds the ends of statements, so these marks are not needed.
        "statementbegin" | "statementend" | "envsub off" => Annotation::Nothing,
        other => return Err(format!("unknown annotation {other:?}")),
    }])
}

/// Splits a file with sections into its scripts. Each keeps the lines that it has in the file.
pub(super) fn sections((path, text): SqlFile, read_line: ReadLine) -> Result<Source> {
    let stem = file_name(&path).trim_end_matches(".sql").to_string();
    let (version, name) = version_and_name(&stem, "_", &path)?;
    let mut sections = Sections::default();
    for (index, line) in text.lines().enumerate() {
        let fault =
            |message: String| Error::new(ErrorKind::Catalog, message).at(&path, line_number(index + 1));
        let annotations = read_line(line).map_err(fault)?;
        for annotation in &annotations {
            match annotation {
                Annotation::Up => sections.begin(true, index).map_err(fault)?,
                Annotation::Down => sections.begin(false, index).map_err(fault)?,
                Annotation::NoTransaction => sections.current().transaction = Transaction::None,
                Annotation::NoTransactions => {
                    sections.up.transaction = Transaction::None;
                    sections.down.transaction = Transaction::None;
                }
                Annotation::Nothing => {}
            }
        }
        sections.push(if annotations.is_empty() { line } else { "" }).map_err(fault)?;
    }
    let Sections { up, down, .. } = sections;
    let way = |section: Section| {
        section.text.map(|text| Way { file: (path.clone(), text), transaction: section.transaction })
    };
    let down = way(down);
    let up = way(up)
        .ok_or_else(|| Error::new(ErrorKind::Catalog, "the file has no section for up").at(&path, None))?;
    Ok(Source { version, name, up, down })
}

/// The scripts of a file with sections, as far as it was read.
#[derive(Default)]
struct Sections {
    up: Section,
    down: Section,
    /// Whether the section that is being read is the one for down.
    is_down: bool,
}

struct Section {
    /// `None` if the section did not begin yet.
    text: Option<String>,
    transaction: Transaction,
}

impl Default for Section {
    fn default() -> Self {
        Self { text: None, transaction: Transaction::Shared }
    }
}

impl Sections {
    fn current(&mut self) -> &mut Section {
        if self.is_down { &mut self.down } else { &mut self.up }
    }

    /// Begins a section on a line, counted from 0. The lines before it are empty.
    fn begin(&mut self, is_up: bool, line: usize) -> std::result::Result<(), String> {
        self.is_down = !is_up;
        match self.current().text.replace("\n".repeat(line)) {
            None => Ok(()),
            Some(_) => Err("the section occurs twice".into()),
        }
    }

    /// Adds a line to the section. Before the first section only comments are allowed.
    fn push(&mut self, line: &str) -> std::result::Result<(), String> {
        match &mut self.current().text {
            Some(script) => {
                script.extend([line, "\n"]);
                Ok(())
            }
            None if line.trim().is_empty() || line.trim_start().starts_with("--") => Ok(()),
            None => Err("the statement is in no section".into()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_comments_begin_sections() {
        for line in [
            "-- +migrate Down",
            "--@UNDO",
            "-- +micrate Down",
            "---- create above / drop below ----",
            "# +rollback",
        ] {
            assert!(begins_undo_section(line), "{line}");
        }
        for line in [
            "    + t.downloads AS total FROM t;",
            "  @> '{\"down\": true}'",
            "-- @see markdown",
            "-- cut down on rows",
            "-- DOWN",
            "SELECT 1 -- +down",
        ] {
            assert!(!begins_undo_section(line), "{line}");
        }
    }

    #[test]
    fn directives_of_atlas_are_read_or_refused() {
        let read = |text: &str| atlas_transaction(&("1_a.sql".into(), text.into()));
        assert_eq!(read("-- atlas:txmode none\n\nSELECT 1;").unwrap(), Some(Transaction::None));
        assert_eq!(read("-- atlas:nolint destructive\nSELECT 1;").unwrap(), None);
        for text in [
            "-- atlas:checkpoint",
            "SELECT 1;\n-- atlas:txtar",
            "-- atlas:delimiter \\n\\n",
            "-- atlas:sum ignore",
        ] {
            let error = read(text).unwrap_err();
            assert_eq!((error.kind(), error.line().is_some()), (ErrorKind::Catalog, true), "{text}");
        }
    }
}
