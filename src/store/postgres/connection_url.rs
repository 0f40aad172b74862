//! Parses the URL of a Postgres database and turns it into a connection string for libpq.
//!
//! No message contains a password, whatever the URL looks like. libpq's own URL parser ends the password at the first
//! `@` and repeats the remainder in its errors, so the URL is parsed here. libpq still supplies what the URL leaves
//! out, from `PGHOST`, `PGPASSFILE`, `PGSERVICE` and the like.

use std::fmt::Write as _;

use sha2::{Digest as _, Sha256};

use crate::error::{Error, ErrorKind, Result};
use crate::hash::hexadecimal;

/// The location of a database, and all other connection parameters for libpq.
#[derive(Clone)]
pub(super) struct ConnectionUrl {
    /// libpq's keywords and their values, without passwords.
    parameters: Vec<(String, String)>,
    password: Option<String>,
    /// The password of the client's TLS key.
    key_password: Option<String>,
}

/// A text with only those characters that a folder's name may have. If others were replaced, it ends in a hash of the
/// text. `fallback` is used if nothing remains.
fn as_folder_name(text: &str, fallback: &str) -> String {
    let is_allowed = |it: char| it.is_ascii_alphanumeric() || "._-".contains(it);
    if text.chars().all(is_allowed) && !text.starts_with('.') {
        return text.to_string();
    }
    let letters: String = text.chars().map(|it| if is_allowed(it) { it } else { '-' }).collect();
    let letters = letters.trim_matches(['-', '.']);
    let letters = if letters.is_empty() { fallback } else { letters };
    format!("{letters}-{}", &hexadecimal(&Sha256::digest(text))[..8])
}

/// What replaces a password in messages.
const HIDDEN: &str = "***";

impl ConnectionUrl {
    /// Parses `postgres://[user[:password]@][host][:port][/database][?keyword=value&...]`.
    pub(super) fn parse(url: &str) -> Result<Self> {
        let rest = url.strip_prefix("postgres://").or_else(|| url.strip_prefix("postgresql://"));
        let rest = rest.ok_or_else(|| invalid_url("it does not start with postgres://"))?;
        let (credentials, rest) = split_credentials(rest);
        let (address, query) = rest.split_once('?').unwrap_or((rest, ""));
        let mut parameters = Vec::new();
        let mut put = |key: &str, value: &str| -> Result<()> {
            let value = decode(value);
            if value.contains('\0') {
                return Err(invalid_url("it contains a NUL character"));
            }
            if !value.is_empty() {
                parameters.push((key.to_string(), value));
            }
            Ok(())
        };
        let (mut password, mut key_password) = (None, None);
        if let Some(credentials) = credentials {
            let (user, secret) =
                credentials.split_once(':').map_or((credentials, None), |(a, b)| (a, Some(b)));
            put("user", user)?;
            password = secret.map(decode).filter(|secret| !secret.is_empty());
        }
        let (hosts, database) = address.split_once('/').unwrap_or((address, ""));
        let (mut names, mut ports) = (Vec::new(), Vec::new());
        for host in hosts.split(',') {
            let bracketed = host.strip_prefix('[').and_then(|inner| inner.split_once(']'));
            let (name, port) = match bracketed {
                Some((name, rest)) => (name, rest.strip_prefix(':').unwrap_or_default()),
                None => host.rsplit_once(':').unwrap_or((host, "")),
            };
            if !port.bytes().all(|byte| byte.is_ascii_digit()) {
                return Err(invalid_url("its port is not a number"));
            }
            names.push(name);
            ports.push(port);
        }
        put("host", &names.join(","))?;
        if ports.iter().any(|port| !port.is_empty()) {
            put("port", &ports.join(","))?;
        }
        put("dbname", database)?;
        for pair in query.split('&').filter(|pair| !pair.is_empty()) {
            let (key, value) =
                pair.split_once('=').ok_or_else(|| invalid_url("the part after ? is not key=value"))?;
            match key {
                "password" => password = Some(decode(value)),
                "sslpassword" => key_password = Some(decode(value)),
                "options" => return Err(invalid_url("it sets options, which tenantry uses itself")),
                "ssl" if value == "true" => put("sslmode", "require")?,
                key if key.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'_') => {
                    put(key, value)?;
                }
                _ => return Err(invalid_url("the part after ? is not key=value")),
            }
        }
        let mut target = Self { parameters, password, key_password };
        target.complete();
        Ok(target)
    }

    /// Whether libpq takes some parameters from a service file.
    pub(super) fn has_service(&self) -> bool {
        self.get("service").is_some() || std::env::var_os("PGSERVICE").is_some()
    }

    /// Adds the location parameters that libpq would take from the environment.
    fn complete(&mut self) {
        if self.has_service() {
            return;
        }
        let names_a_host = self.get("host").is_some();
        for (key, variable) in [("host", "PGHOST"), ("port", "PGPORT"), ("dbname", "PGDATABASE")] {
            let value = std::env::var(variable).ok().filter(|value| !value.is_empty());
            // A port belongs to the host that it was given with.
            let is_given = self.get(key).is_some() || (key == "port" && names_a_host);
            if let Some(value) = value.filter(|_| !is_given) {
                self.parameters.push((key.into(), value));
            }
        }
    }

    /// `DATABASE@HOST-PORT`: a valid folder name, which differs for each database.
    pub(super) fn folder_name(&self) -> String {
        let database = self.get("dbname").map_or("default".into(), |name| as_folder_name(name, "database"));
        let host = self.get("host").map_or("local".into(), |name| as_folder_name(name, "host"));
        let port =
            self.get("port").map(|port| format!("-{}", as_folder_name(port, "port"))).unwrap_or_default();
        format!("{database}@{host}{port}")
    }

    /// The same database with another user. The URL has no password for that user, so libpq looks for one.
    pub(super) fn with_user(&self, name: &str) -> Self {
        Self { password: None, ..self.with("user", name) }
    }

    /// A copy with another value for one of libpq's keywords.
    pub(super) fn with(&self, key: &str, value: &str) -> Self {
        let mut target = self.clone();
        target.parameters.retain(|(name, _)| name != key);
        target.parameters.push((key.into(), value.into()));
        target
    }

    fn get(&self, key: &str) -> Option<&str> {
        self.parameters.iter().find(|(name, _)| name == key).map(|(_, value)| value.as_str())
    }

    /// The password, if the URL has one.
    pub(super) fn password(&self) -> Option<&str> {
        self.password.as_deref()
    }

    /// The password of the client's TLS key, if the URL has one.
    pub(super) fn key_password(&self) -> Option<&str> {
        self.key_password.as_deref()
    }

    /// The connection string for libpq: keywords and quoted values.
    pub(super) fn conninfo(&self) -> String {
        let password = self.password.iter().map(|value| ("password", value));
        self.connection_string(password.chain(self.key_password.iter().map(|value| ("sslpassword", value))))
    }

    /// The connection string without passwords, which anybody may read.
    pub(super) fn public_conninfo(&self) -> String {
        self.connection_string(std::iter::empty())
    }

    fn connection_string<'a>(&'a self, more: impl Iterator<Item = (&'a str, &'a String)>) -> String {
        let mut text = String::new();
        for (key, value) in self.parameters.iter().map(|(key, value)| (key.as_str(), value)).chain(more) {
            // Writing to a string cannot fail.
            let _ = write!(text, "{key}='{}' ", value.replace('\\', "\\\\").replace('\'', "\\'"));
        }
        if self.get("application_name").is_none() {
            text.push_str("fallback_application_name='tenantry' ");
        }
        if self.get("connect_timeout").is_none() {
            text.push_str("connect_timeout='10'");
        }
        text
    }

    /// The location of the database for messages.
    pub(super) fn location(&self) -> String {
        let user = self.get("user").map(|user| format!("{user}@")).unwrap_or_default();
        let host = self.get("host").unwrap_or_default();
        let port = self.get("port").map(|port| format!(":{port}")).unwrap_or_default();
        let database = self.get("dbname").map(|name| format!("/{name}")).unwrap_or_default();
        format!("postgres://{user}{host}{port}{database}")
    }

    /// Replaces passwords in a message.
    pub(super) fn redact(&self, message: &str) -> String {
        let secrets = [&self.password, &self.key_password].into_iter().flatten().filter(|it| it.len() > 2);
        secrets.fold(message.to_string(), |message, secret| message.replace(secret.as_str(), HIDDEN))
    }
}

fn invalid_url(what: &str) -> Error {
    Error::new(ErrorKind::Configuration, format!("cannot read the store's URL: {what}")).with_hint(
        "use postgres://user:password@host:5432/database, and encode special characters in the password (@ is %40)",
    )
}

/// Splits at the `@` before the host. A password may contain an unencoded `@`, `/` or `?`, so this is the last `@` that
/// is not in a query parameter's value.
fn split_credentials(rest: &str) -> (Option<&str>, &str) {
    let is_key = |text: &str| {
        text.split_once('=').is_some_and(|(key, _)| {
            !key.is_empty() && key.bytes().all(|byte| byte.is_ascii_lowercase() || byte == b'_')
        })
    };
    let is_in_query = |at: usize| rest[..at].match_indices('?').any(|(mark, _)| is_key(&rest[mark + 1..at]));
    match rest.match_indices('@').map(|(at, _)| at).rfind(|at| !is_in_query(*at)) {
        Some(at) => (Some(&rest[..at]), &rest[at + 1..]),
        None => (None, rest),
    }
}

/// Decodes `%XX` to a byte. Other percent signs are kept.
fn decode(text: &str) -> String {
    let bytes = text.as_bytes();
    let mut decoded = Vec::with_capacity(bytes.len());
    let mut index = 0;
    while let Some(&byte) = bytes.get(index) {
        let digits = text.get(index + 1..index + 3).filter(|_| byte == b'%');
        if let Some(value) = digits.and_then(|digits| u8::from_str_radix(digits, 16).ok()) {
            decoded.push(value);
            index += 3;
        } else {
            decoded.push(byte);
            index += 1;
        }
    }
    String::from_utf8(decoded).unwrap_or_else(|_| text.to_string())
}

#[cfg(test)]
mod tests {
    use super::ConnectionUrl;

    #[test]
    fn trap_32_a_password_may_have_any_character_and_is_never_shown() {
        let secret = "p@s:s/w%o'r\\d?";
        for written in ["p@s:s/w%o'r\\d?", "p%40s%3As%2Fw%25o%27r%5Cd%3F"] {
            let target = ConnectionUrl::parse(&format!(
                "postgres://ann:{written}@db.example:5433/fleet?sslmode=require"
            ))
            .unwrap();
            let conninfo = target.conninfo();
            assert!(conninfo.contains(r"password='p@s:s/w%o\'r\\d?'"), "{conninfo}");
            for part in
                ["user='ann'", "host='db.example'", "port='5433'", "dbname='fleet'", "sslmode='require'"]
            {
                assert!(conninfo.contains(part), "{conninfo} lacks {part}");
            }
            assert_eq!(target.location(), "postgres://ann@db.example:5433/fleet");
            assert_eq!(target.redact(&format!("no: {secret}")), "no: ***");
        }
    }

    #[test]
    fn the_password_of_a_key_is_handed_to_libpq_alone() {
        let target = ConnectionUrl::parse("postgres://db/fleet?sslkey=/k&sslpassword=se%20cret").unwrap();
        assert!(target.conninfo().contains("sslpassword='se cret'"), "{}", target.conninfo());
        for shown in
            [target.public_conninfo(), target.location(), target.redact("the key's se cret is wrong")]
        {
            assert!(!shown.contains("se cret"), "{shown}");
        }
        assert_eq!(target.key_password(), Some("se cret"));
    }

    #[test]
    fn trap_32_an_at_sign_in_the_query_is_a_part_of_its_value() {
        let target = ConnectionUrl::parse("postgres://db/fleet?user=ann&password=p@ss").unwrap();
        assert_eq!(
            (target.location().as_str(), target.redact("p@ss").as_str()),
            ("postgres://ann@db/fleet", "***")
        );
        let target =
            ConnectionUrl::parse("postgres://ann:secret@db/fleet?sslrootcert=/home/me@x/ca").unwrap();
        assert_eq!(target.location(), "postgres://ann@db/fleet");
        assert!(target.conninfo().contains("sslrootcert='/home/me@x/ca' password='secret'"));
    }

    #[test]
    fn what_a_url_leaves_out_is_left_to_libpq() {
        let conninfo = ConnectionUrl::parse("postgres://").unwrap().conninfo();
        for key in ["host", "port", "dbname", "user", "password"] {
            assert!(!conninfo.contains(&format!("{key}=")), "{conninfo}");
        }
        assert!(
            ConnectionUrl::parse("postgres:///db?host=%2Ftmp%2Fpg&port=1")
                .unwrap()
                .conninfo()
                .contains("host='/tmp/pg'")
        );
        assert!(
            ConnectionUrl::parse("postgres://[::1]:5432/db")
                .unwrap()
                .conninfo()
                .contains("host='::1' port='5432'")
        );
    }

    #[test]
    fn what_is_no_url_is_refused_without_repeating_it() {
        for url in [
            "mysql://a:secret@b/c",
            "postgres://a:secret@host:x/db",
            "postgres://a:secret@h/d?x",
            "postgres://h?options=secret",
        ] {
            let error = ConnectionUrl::parse(url).err().unwrap();
            assert!(!error.summary().contains("secret"), "{}", error.summary());
        }
    }
}
