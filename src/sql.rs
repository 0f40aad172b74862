//! Splits SQL into tokens, without comments and white space. Strings and quoted names are single tokens.
//!
//! Fails only on a quote or comment that is never closed. Accepts any other text.

pub(crate) mod copy;
mod dialect;
pub(crate) mod effect;
pub(crate) mod extension;
pub(crate) mod outside;
pub(crate) mod own_schema;
pub(crate) mod pragma;
pub(crate) mod statement;

pub use dialect::Dialect;

/// The kind of a token.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TokenKind {
    /// A keyword or an unquoted name.
    Word,
    /// A quoted name: `"a"`, and in SQLite `` `a` `` and `[a]`.
    Quoted,
    /// A string: `'a'`, and in Postgres `E'a'` and `$$a$$`.
    Text,
    /// A blob: `x'00'`.
    Blob,
    /// A number.
    Number,
    /// A parameter: `?1`, `:a`, `@a`, `$1`.
    Parameter,
    /// An operator, a parenthesis or bracket, a comma or a semicolon.
    Symbol,
}

/// One token and its location in the text.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Token<'a> {
    /// Its kind.
    pub kind: TokenKind,
    /// Its text as written, including quotes.
    pub text: &'a str,
    /// The byte offset at which it starts.
    pub start: usize,
    /// The line it starts on, counted from one.
    pub line: u32,
}

impl Token<'_> {
    /// Whether it is this unquoted word, in any letter case.
    #[must_use]
    pub fn is(&self, word: &str) -> bool {
        self.kind == TokenKind::Word && self.text.eq_ignore_ascii_case(word)
    }

    /// Whether it is this symbol.
    #[must_use]
    pub fn is_symbol(&self, symbol: &str) -> bool {
        self.kind == TokenKind::Symbol && self.text == symbol
    }

    /// Returns the name that it denotes, without quotes. `None` if a token of this kind cannot be a name.
    #[must_use]
    pub fn name(&self) -> Option<String> {
        match self.kind {
            TokenKind::Word => Some(self.text.to_string()),
            TokenKind::Quoted | TokenKind::Text => {
                let close = self.text.chars().last()?;
                let inner = &self.text[1..self.text.len() - 1];
                Some(if close == ']' {
                    inner.to_string()
                } else {
                    inner.replace(&format!("{close}{close}"), &close.to_string())
                })
            }
            TokenKind::Blob | TokenKind::Number | TokenKind::Parameter | TokenKind::Symbol => None,
        }
    }
}

/// A quote or comment that is never closed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Unclosed {
    /// What is not closed, such as `string`; used in messages.
    pub what: &'static str,
    /// The line on which it was opened, counted from one.
    pub line: u32,
}

/// Splits text into tokens. Fails if a quote or comment is never closed.
pub fn tokens(sql: &str, dialect: Dialect) -> Result<Vec<Token<'_>>, Unclosed> {
    let mut scanner = Scanner::new(sql, dialect);
    let mut tokens = Vec::new();
    while let Some(token) = scanner.next_token()? {
        tokens.push(token);
    }
    Ok(tokens)
}

struct Scanner<'a> {
    sql: &'a str,
    bytes: &'a [u8],
    dialect: Dialect,
    position: usize,
    line: u32,
}

/// Converts a line number, or a number of lines.
pub(crate) fn line_number(line: usize) -> u32 {
    u32::try_from(line).unwrap_or(u32::MAX)
}

/// Returns the length in bytes of the white space and comments that a text begins with.
pub(crate) fn leading_blank_length(sql: &str, dialect: Dialect) -> Result<usize, Unclosed> {
    let mut scanner = Scanner::new(sql, dialect);
    scanner.skip_blank()?;
    Ok(scanner.position)
}

impl<'a> Scanner<'a> {
    const fn new(sql: &'a str, dialect: Dialect) -> Self {
        Self { sql, bytes: sql.as_bytes(), dialect, position: 0, line: 1 }
    }

    fn byte(&self, ahead: usize) -> u8 {
        self.bytes.get(self.position + ahead).copied().unwrap_or(0)
    }

    fn starts_with(&self, text: &str) -> bool {
        self.bytes[self.position..].starts_with(text.as_bytes())
    }

    fn advance(&mut self, count: usize) {
        let end = (self.position + count).min(self.bytes.len());
        let newlines = self.bytes[self.position..end].iter().filter(|&&byte| byte == b'\n').count();
        self.line += u32::try_from(newlines).unwrap_or(u32::MAX);
        self.position = end;
    }

    fn next_token(&mut self) -> Result<Option<Token<'a>>, Unclosed> {
        self.skip_blank()?;
        if self.position >= self.bytes.len() {
            return Ok(None);
        }
        let (start, line) = (self.position, self.line);
        let (kind, length) = self.measure()?;
        self.advance(length);
        Ok(Some(Token { kind, text: &self.sql[start..self.position], start, line }))
    }

    fn skip_blank(&mut self) -> Result<(), Unclosed> {
        loop {
            if self.starts_with("--") {
                let remaining = &self.bytes[self.position..];
                // In Postgres a carriage return ends a line, too.
                let is_line_end =
                    |byte: &u8| *byte == b'\n' || (*byte == b'\r' && self.dialect == Dialect::Postgres);
                self.advance(remaining.iter().position(is_line_end).unwrap_or(remaining.len()));
            } else if self.starts_with("/*") {
                self.skip_block_comment()?;
            } else if self.byte(0).is_ascii_whitespace() || self.starts_with("\u{feff}") {
                self.advance(if self.byte(0).is_ascii_whitespace() { 1 } else { 3 });
            } else {
                return Ok(());
            }
        }
    }

    /// Skips a block comment. Postgres nests block comments, SQLite does not. SQLite accepts a comment that is never
    /// closed; here it is an error, because it is most likely a mistake.
    fn skip_block_comment(&mut self) -> Result<(), Unclosed> {
        let line = self.line;
        let mut depth = 0_u32;
        while self.position < self.bytes.len() {
            if self.starts_with("/*") && (depth == 0 || self.dialect == Dialect::Postgres) {
                depth += 1;
                self.advance(2);
            } else if self.starts_with("*/") {
                depth -= 1;
                self.advance(2);
                if depth == 0 {
                    return Ok(());
                }
            } else {
                self.advance(1);
            }
        }
        Err(Unclosed { what: "comment", line })
    }

    fn measure(&self) -> Result<(TokenKind, usize), Unclosed> {
        use TokenKind::{Blob, Number, Parameter, Quoted, Symbol, Text, Word};
        let postgres = self.dialect == Dialect::Postgres;
        Ok(match self.byte(0) {
            b'\'' => (Text, self.quoted(0, b'\'', false, "string")?),
            b'e' | b'E' if postgres && self.byte(1) == b'\'' => {
                (Text, self.quoted(1, b'\'', true, "string")?)
            }
            b'x' | b'X' if self.byte(1) == b'\'' => (Blob, self.quoted(1, b'\'', false, "blob")?),
            b'"' => (Quoted, self.quoted(0, b'"', false, "quoted name")?),
            b'`' if !postgres => (Quoted, self.quoted(0, b'`', false, "quoted name")?),
            b'[' if !postgres => (Quoted, self.quoted(0, b']', false, "quoted name")?),
            b'$' if postgres => match self.dollar_quoted()? {
                Some(length) => (Text, length),
                None => (Parameter, 1 + self.run_length(1, is_word_byte)),
            },
            b'?' | b':' | b'@' | b'$' if is_word_byte(self.byte(1)) => {
                (Parameter, 1 + self.run_length(1, is_word_byte))
            }
            b'0'..=b'9' => (Number, self.number()),
            b'.' if self.byte(1).is_ascii_digit() => (Number, self.number()),
            byte if is_word_byte(byte) => (Word, self.run_length(0, is_word_byte)),
            _ => (Symbol, self.symbol()),
        })
    }

    fn run_length(&self, from: usize, is_part: fn(u8) -> bool) -> usize {
        self.bytes[self.position + from..].iter().take_while(|&&byte| is_part(byte)).count()
    }

    fn quoted(&self, open: usize, close: u8, backslash: bool, what: &'static str) -> Result<usize, Unclosed> {
        let mut length = open + 1;
        while self.position + length < self.bytes.len() {
            let byte = self.byte(length);
            if byte == b'\\' && backslash {
                length += 2;
            } else if byte != close {
                length += 1;
            } else if self.byte(length + 1) == close && close != b']' {
                length += 2;
            } else if let Some(gap) = self.continuation(length + 1, close) {
                length += gap + 2;
            } else {
                return Ok(length + 1);
            }
        }
        Err(Unclosed { what, line: self.line })
    }

    /// Returns the number of bytes between a string's end and the quote that continues it. `None` if none continues it.
    /// Postgres continues a string on a later line, after white space and comments. The string's prefix, such as `E`,
    /// applies to the continuation, too.
    fn continuation(&self, from: usize, close: u8) -> Option<usize> {
        if self.dialect != Dialect::Postgres || close != b'\'' {
            return None;
        }
        let (mut gap, mut is_new_line) = (0, false);
        loop {
            let ahead = from + gap;
            match self.byte(ahead) {
                b'\n' | b'\r' => (gap, is_new_line) = (gap + 1, true),
                b' ' | b'\t' | 0x0c => gap += 1,
                b'-' if self.byte(ahead + 1) == b'-' => {
                    gap += self.run_length(ahead, |byte| byte != b'\n' && byte != b'\r');
                }
                b'\'' if is_new_line => return Some(gap),
                _ => return None,
            }
        }
    }

    fn dollar_quoted(&self) -> Result<Option<usize>, Unclosed> {
        let tag = self.run_length(1, |byte| byte != b'$' && is_word_byte(byte));
        if self.byte(1).is_ascii_digit() || self.byte(1 + tag) != b'$' {
            return Ok(None);
        }
        let quote = &self.sql[self.position..self.position + tag + 2];
        let inner = self.position + quote.len();
        match self.sql[inner..].find(quote) {
            Some(length) => Ok(Some(quote.len() + length + quote.len())),
            None => Err(Unclosed { what: "dollar quote", line: self.line }),
        }
    }

    /// Returns the length of a number, including the letters directly after it. Postgres reads both as one token and
    /// refuses it. A `$` among the letters starts no dollar quote; a `$` directly after the digits does.
    fn number(&self) -> usize {
        let mut length = 0;
        loop {
            length += self.run_length(length, |byte| byte.is_ascii_digit() || byte == b'.');
            let letters = if self.byte(length) == b'$' { 0 } else { self.run_length(length, is_word_byte) };
            length += letters;
            let exponent = letters > 0 && matches!(self.byte(length - 1), b'e' | b'E');
            if exponent && !self.starts_with("0x") && matches!(self.byte(length), b'+' | b'-') {
                length += 1;
            } else {
                return length;
            }
        }
    }

    fn symbol(&self) -> usize {
        const LONG: [&str; 11] = ["->>", "||", "->", "<>", "!=", "<=", ">=", "==", "<<", ">>", "::"];
        LONG.iter().find(|symbol| self.starts_with(symbol)).map_or(1, |symbol| symbol.len())
    }
}

/// Whether a byte can be part of a word. All non-ASCII bytes can, as in both databases. So a token never splits a
/// character.
const fn is_word_byte(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || byte == b'_' || byte == b'$' || byte >= 0x80
}

/// Quotes a name for SQL. A name must not be put into a statement in any other way.
#[must_use]
pub(crate) fn quote_name(name: &str) -> String {
    format!("\"{}\"", name.replace('"', "\"\""))
}

/// Quotes a text for SQL. A text must not be put into a statement in any other way. Backslashes need no escaping:
/// tenantry's transactions on Postgres set `standard_conforming_strings` to `on`.
#[must_use]
pub(crate) fn quote_text(text: &str) -> String {
    format!("'{}'", text.replace('\'', "''"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn texts(sql: &str, dialect: Dialect) -> Vec<&str> {
        tokens(sql, dialect).unwrap().iter().map(|token| token.text).collect()
    }

    #[test]
    fn strings_names_and_comments_are_whole() {
        let sql =
            "SELECT 'a;''b' -- ; '\n, \"c\"\"d\" /* ; ' */ , [e;f], `g`, x'0F', 1.5e-3, a->>'$.b' <> ?1;";
        assert_eq!(
            texts(sql, Dialect::Sqlite),
            [
                "SELECT",
                "'a;''b'",
                ",",
                "\"c\"\"d\"",
                ",",
                "[e;f]",
                ",",
                "`g`",
                ",",
                "x'0F'",
                ",",
                "1.5e-3",
                ",",
                "a",
                "->>",
                "'$.b'",
                "<>",
                "?1",
                ";"
            ]
        );
    }

    #[test]
    fn postgres_has_dollar_quotes_escapes_and_nested_comments() {
        let sql = "/* a /* b */ ; */ SELECT $x$ ; $$ ' $x$, $1, E'a\\'b;' , $$;$$";
        assert_eq!(
            texts(sql, Dialect::Postgres),
            ["SELECT", "$x$ ; $$ ' $x$", ",", "$1", ",", "E'a\\'b;'", ",", "$$;$$"]
        );
    }

    #[test]
    fn postgres_takes_a_number_and_the_letters_after_it_for_one() {
        let sql = "1.5e3$$; 15$$;$$ 1e+3$$;$$ 2E'\\';";
        assert_eq!(
            texts(sql, Dialect::Postgres),
            ["1.5e3$$", ";", "15", "$$;$$", "1e+3", "$$;$$", "2E", "'\\'", ";"]
        );
    }

    #[test]
    fn what_is_never_closed_is_named_with_its_line() {
        for (sql, what) in
            [("\n'a", "string"), ("\n\"a", "quoted name"), ("\n/* a", "comment"), ("\n[a", "quoted name")]
        {
            assert_eq!(tokens(sql, Dialect::Sqlite).unwrap_err(), Unclosed { what, line: 2 });
        }
        assert_eq!(tokens("$a$ $b$", Dialect::Postgres).unwrap_err().what, "dollar quote");
    }

    proptest! {
        #[test]
        fn no_text_breaks_the_scanner(sql in "\\PC{0,60}", postgres in any::<bool>()) {
            let dialect = if postgres { Dialect::Postgres } else { Dialect::Sqlite };
            if let Ok(tokens) = tokens(&sql, dialect) {
                for pair in tokens.windows(2) {
                    prop_assert!(pair[0].start + pair[0].text.len() <= pair[1].start);
                }
            }
        }

        #[test]
        fn a_quoted_name_is_one_token_and_gives_the_name_back(name in "[^\\x00]{1,20}") {
            let quoted = quote_name(&name);
            let tokens = tokens(&quoted, Dialect::Sqlite).unwrap();
            prop_assert_eq!(tokens.len(), 1);
            prop_assert_eq!(tokens[0].name().unwrap(), name);
        }
    }
}
