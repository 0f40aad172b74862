//! The rows of a `COPY` statement from standard input, as `pg_dump` and `psql` scripts have them, turned into `INSERT`s.

use super::statement::first_statement_length;
use super::{Dialect, Token, TokenKind, Unclosed, leading_blank_length, line_number, tokens};

/// Why the rows of a script cannot be expanded, and the line.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct CopyFault {
    pub(crate) message: String,
    pub(crate) line: u32,
}

/// How many rows one statement inserts.
const ROWS_PER_INSERT: usize = 200;

/// Replaces each `COPY ... FROM stdin` and its rows with `INSERT` statements. Each row stays on its line, so that errors
/// name it. Returns `None` if there is nothing to replace. Fails on a command of `psql`, on rows that do not end, and if a
/// quote or comment is never closed.
pub(crate) fn expand(script: &str) -> Result<Option<String>, CopyFault> {
    // Rows end with a line `\.`.
    if !script.lines().any(|line| line.starts_with('\\')) {
        return Ok(None);
    }
    let mut expanded = Expanded { text: String::with_capacity(script.len() * 2), line: 1 };
    let mut rest = script;
    loop {
        let blank = leading_blank_length(rest, Dialect::Postgres).map_err(|it| expanded.unclosed(&it))?;
        expanded.push(&rest[..blank]);
        rest = &rest[blank..];
        if rest.is_empty() {
            return Ok(Some(expanded.text));
        }
        rest = if rest.starts_with('\\') {
            expanded.skip_command(rest)?
        } else {
            expanded.push_statement(rest)?
        };
    }
}

/// A script whose rows are replaced, as far as it was read.
struct Expanded {
    text: String,
    /// The current line, which is the same in `text` and in the script.
    line: u32,
}

impl Expanded {
    fn push(&mut self, text: &str) {
        self.line = self.line.saturating_add(line_number(text.matches('\n').count()));
        self.text.push_str(text);
    }

    fn fault(&self, message: impl Into<String>) -> CopyFault {
        CopyFault { message: message.into(), line: self.line }
    }

    fn unclosed(&self, unclosed: &Unclosed) -> CopyFault {
        let line = (self.line - 1).saturating_add(unclosed.line);
        CopyFault { message: format!("a {} is never closed", unclosed.what), line }
    }

    /// Skips a command that has no meaning here. Returns what follows it.
    fn skip_command<'a>(&self, text: &'a str) -> Result<&'a str, CopyFault> {
        let command = text.lines().next().unwrap_or_default();
        if is_restrict_command(command) {
            return Ok(&text[command.len()..]);
        }
        let word = command.split_whitespace().next().unwrap_or_default();
        Err(self.fault(format!("{word} is a command of psql, not SQL")))
    }

    /// Copies a statement, or replaces a `COPY` with its rows. Returns what follows it.
    fn push_statement<'a>(&mut self, text: &'a str) -> Result<&'a str, CopyFault> {
        let (length, is_ended) =
            first_statement_length(text, Dialect::Postgres).map_err(|it| self.unclosed(&it))?;
        let (sql, rest) = text.split_at(length);
        if !is_copy_from_stdin(sql) {
            self.push(sql);
            return Ok(rest);
        }
        let into = copied_into(sql.trim_end_matches(';')).filter(|_| is_ended);
        let into = into.ok_or_else(|| self.fault("COPY FROM stdin with options is not supported"))?;
        let (rows, rest) = rows_of(rest)
            .ok_or_else(|| self.fault("the rows of a COPY do not end: the line \\. is missing"))?;
        // The statement's own lines.
        self.push(&"\n".repeat(sql.matches('\n').count() + 1));
        let rows = lines_of(rows, self.line)?;
        for (index, row) in rows.iter().enumerate() {
            if index % ROWS_PER_INSERT == 0 {
                self.push(&format!("INSERT INTO {into} OVERRIDING SYSTEM VALUE VALUES "));
            }
            let is_last = index + 1 == rows.len() || (index + 1) % ROWS_PER_INSERT == 0;
            let end = if is_last { ';' } else { ',' };
            self.push(&format!("({}){end}\n", row_values(row)));
        }
        // The line that ended the rows.
        self.push("\n");
        Ok(rest)
    }
}

fn is_copy_from_stdin(sql: &str) -> bool {
    let found = tokens(sql, Dialect::Postgres).unwrap_or_default();
    found.first().is_some_and(|it| it.is("COPY")) && found.iter().any(|it| it.is("STDIN"))
}

/// Splits the text after a `COPY` statement into its rows and what follows the line `\.`.
pub(crate) fn rows_of(text: &str) -> Option<(&str, &str)> {
    let text = &text[text.find('\n').map_or(text.len(), |at| at + 1)..];
    let end = if text.starts_with("\\.") { 0 } else { text.find("\n\\.")? + 1 };
    let (rows, rest) = text.split_at(end);
    Some((rows, &rest[rest.find('\n').map_or(rest.len(), |at| at + 1)..]))
}

/// Returns the table and columns of `COPY table (columns) FROM stdin`.
pub(crate) fn copied_into(sql: &str) -> Option<String> {
    let found = tokens(sql, Dialect::Postgres).ok()?;
    let [first, into @ .., from, stdin] = found.as_slice() else { return None };
    let is_name = |token: &Token<'_>| {
        token.kind == TokenKind::Quoted
            || (token.kind == TokenKind::Word && !token.is("FROM") && !token.is("PROGRAM"))
            || [".", ",", "(", ")"].iter().any(|symbol| token.is_symbol(symbol))
    };
    let is_plain = first.is("COPY") && from.is("FROM") && stdin.is("STDIN") && into.iter().all(is_name);
    let (start, end) = (into.first()?.start, from.start);
    is_plain.then(|| sql[start..end].trim().to_string())
}

/// Whether a line is one of the commands with which recent versions of `pg_dump` make `psql` refuse other commands in
/// between. They have no meaning here.
pub(crate) fn is_restrict_command(line: &str) -> bool {
    let word = line.strip_prefix("\\restrict ").or_else(|| line.strip_prefix("\\unrestrict "));
    word.is_some_and(|word| !word.is_empty() && word.bytes().all(|byte| byte.is_ascii_alphanumeric()))
}

/// Splits rows into lines. All lines must end in the same way; `COPY` escapes any other line end in a row.
pub(crate) fn lines_of(rows: &str, line: u32) -> Result<Vec<&str>, CopyFault> {
    let ends = if rows.split('\n').next().is_some_and(|first| first.ends_with('\r')) { "\r\n" } else { "\n" };
    let lines: Vec<&str> = rows.split_terminator(ends).collect();
    let fault = |index: usize, message: &str| CopyFault {
        message: message.into(),
        line: line.saturating_add(line_number(index)),
    };
    if let Some(index) = lines.iter().position(|row| unescape(row).is_none()) {
        return Err(fault(index, "a row contains bytes that are not UTF-8"));
    }
    match lines.iter().position(|row| row.contains(['\r', '\n'])) {
        None => Ok(lines),
        Some(index) => Err(fault(index, "a row contains a line end that is not written as \\r or \\n")),
    }
}

/// Returns a row's values as string literals, which the server converts to the types of the columns.
pub(crate) fn row_values(row: &str) -> String {
    let value = |field: &str| {
        if field == "\\N" { "NULL".to_string() } else { literal(&unescape(field).unwrap_or_default()) }
    };
    row.split('\t').map(value).collect::<Vec<_>>().join(", ")
}

/// Returns an `E''` literal on one line. It does not depend on `standard_conforming_strings` or `backslash_quote`.
fn literal(text: &str) -> String {
    format!(" E'{}'", text.replace('\\', "\\\\").replace('\'', "''").replace('\n', "\\n"))
}

/// Decodes the backslash escapes of `COPY`. Returns `None` if the result is not UTF-8.
fn unescape(field: &str) -> Option<String> {
    let mut text = Vec::with_capacity(field.len());
    let mut rest = field.as_bytes();
    while let [byte, after @ ..] = rest {
        rest = after;
        let [escape, after @ ..] = rest else {
            text.push(*byte);
            break;
        };
        if *byte != b'\\' {
            text.push(*byte);
            continue;
        }
        rest = after;
        let digits = |bytes: &[u8], max: usize, base: u32| {
            bytes.iter().take(max).take_while(|it| char::from(**it).is_digit(base)).count()
        };
        let number = |bytes: &[u8], base: u32| {
            bytes
                .iter()
                .filter_map(|it| char::from(*it).to_digit(base))
                .fold(0, |sum, it| (sum * base + it) & 255)
        };
        text.push(match escape {
            b'b' => 8,
            b'f' => 12,
            b'n' => b'\n',
            b'r' => b'\r',
            b't' => b'\t',
            b'v' => 11,
            b'x' if digits(rest, 2, 16) > 0 => {
                let (hexadecimal, after) = rest.split_at(digits(rest, 2, 16));
                rest = after;
                u8::try_from(number(hexadecimal, 16)).unwrap_or_default()
            }
            b'0'..=b'7' => {
                let more = digits(rest, 2, 8);
                let (octal, after) = rest.split_at(more);
                rest = after;
                u8::try_from(number(&[&[*escape], octal].concat(), 8)).unwrap_or_default()
            }
            other => *other,
        });
    }
    String::from_utf8(text).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rows_of_copy_are_read_back_as_they_were() {
        assert_eq!(row_values("1\t\\N\ta\\tb\\\\N\t"), " E'1', NULL,  E'a\tb\\\\N',  E''");
        assert_eq!(row_values("\\x41\\102\\q"), " E'ABq'");
        assert_eq!(unescape("\\xff"), None);
        assert_eq!(row_values("it's\\nso"), " E'it''s\\nso'");
        assert_eq!(copied_into("COPY a.\"B c\" (x, y) FROM stdin").as_deref(), Some("a.\"B c\" (x, y)"));
        for sql in [
            "COPY a FROM '/x'",
            "COPY a FROM PROGRAM 'x'",
            "COPY a TO stdout",
            "COPY (SELECT f('x')) FROM stdin",
        ] {
            assert_eq!(copied_into(sql), None, "{sql}");
        }
    }

    #[test]
    fn each_row_stays_on_its_line() {
        let script =
            "CREATE TABLE a (x int, y text);\nCOPY a (x, y)\nFROM stdin;\n1\tb'c\n2\t\\N\n\\.\n\nSELECT 1;\n";
        let expanded = expand(script).unwrap().unwrap();
        let lines: Vec<&str> = expanded.lines().collect();
        assert_eq!(lines[3], "INSERT INTO a (x, y) OVERRIDING SYSTEM VALUE VALUES ( E'1',  E'b''c'),");
        assert_eq!((lines[4], lines[7]), ("( E'2', NULL);", "SELECT 1;"));
        assert_eq!(expanded.matches('\n').count(), script.matches('\n').count());
        // A value with a line end stays on its line as well.
        let lines = expand("COPY a FROM stdin;\nx\\ny\n\\.\nSELECT 1;").unwrap().unwrap();
        assert_eq!(lines.lines().nth(1), Some("INSERT INTO a OVERRIDING SYSTEM VALUE VALUES ( E'x\\ny');"));
        assert_eq!(lines.lines().nth(3), Some("SELECT 1;"));
        // Without rows nothing is left.
        assert_eq!(expand("COPY a FROM stdin;\n\\.\n").unwrap().unwrap().trim(), "");
        assert_eq!(expand("SELECT 'COPY a FROM stdin';").unwrap(), None);
    }

    #[test]
    fn what_psql_alone_runs_is_named_with_its_line() {
        let fault = |script: &str| expand(script).map(|_| ()).unwrap_err();
        assert_eq!(
            fault("SELECT 1;\n\\connect x"),
            CopyFault { message: "\\connect is a command of psql, not SQL".into(), line: 2 }
        );
        assert_eq!(fault("\n\\i x.sql").line, 2);
        assert_eq!(
            fault("SELECT 1;\nCOPY a FROM stdin;\n1\n2\n\\x"),
            CopyFault { message: "the rows of a COPY do not end: the line \\. is missing".into(), line: 2 }
        );
        let options = "SELECT 1;\nCOPY a FROM stdin WITH (FORMAT csv);\n1,2\n\\.\n";
        assert_eq!(fault(options).message, "COPY FROM stdin with options is not supported");
        // pg_dump brackets its output with these.
        assert_eq!(
            expand("\\restrict abc\nSELECT 1;\n\\unrestrict abc\n").unwrap().unwrap().trim(),
            "SELECT 1;"
        );
    }
}
