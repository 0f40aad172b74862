//! Where a Postgres database is: a URL, taken apart and put together again for libpq.
//!
//! It must not show a password, whatever the URL looks like. libpq's own reading of a URL ends the password at the first
//! `@` and repeats the rest in its errors, so the URL is read here; what it leaves out is libpq's business as ever
//! (`PGHOST`, `PGPASSFILE`, `PGSERVICE` and the like).

use std::fmt::Write as _;

use sha2::{Digest as _, Sha256};

use crate::error::{Error, ErrorKind, Result};
use crate::hash::hexadecimal;

/// A database server's address with everything that libpq is to be told.
#[derive(Clone)]
pub(super) struct ConnectionUrl {
    /// libpq's keywords and their values, the password not among them.
    parameters: Vec<(String, String)>,
    password: Option<String>,
    /// The password of the client's own key.
    key_password: Option<String>,
}

/// A text in letters that a folder's name can have; with a hash of it, where it has others.
fn plain(text: &str, otherwise: &str) -> String {
    let is_allowed = |it: char| it.is_ascii_alphanumeric() || "._-".contains(it);
    if text.chars().all(is_allowed) && !text.starts_with('.') {
        return text.to_string();
    }
    let letters: String = text.chars().map(|it| if is_allowed(it) { it } else { '-' }).collect();
    let letters = letters.trim_matches(['-', '.']);
    let letters = if letters.is_empty() { otherwise } else { letters };
    format!("{letters}-{}", &hexadecimal(&Sha256::digest(text))[..8])
}

/// How messages show a password that somehow got into them.
const HIDDEN: &str = "***";

impl ConnectionUrl {
    /// Reads `postgres://[user[:password]@][host][:port][/database][?keyword=value&...]`.
    pub(super) fn parse(url: &str) -> Result<Self> {
        let rest = url.strip_prefix("postgres://").or_else(|| url.strip_prefix("postgresql://"));
        let rest = rest.ok_or_else(|| fault("it does not begin with postgres://"))?;
        let (credentials, rest) = split_credentials(rest);
        let (place, query) = rest.split_once('?').unwrap_or((rest, ""));
        let mut parameters = Vec::new();
        let mut put = |key: &str, value: &str| -> Result<()> {
            let value = decode(value);
            if value.contains('\0') {
                return Err(fault("it has a NUL"));
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
        let (hosts, database) = place.split_once('/').unwrap_or((place, ""));
        let (mut names, mut ports) = (Vec::new(), Vec::new());
        for host in hosts.split(',') {
            let bracketed = host.strip_prefix('[').and_then(|inner| inner.split_once(']'));
            let (name, port) = match bracketed {
                Some((name, rest)) => (name, rest.strip_prefix(':').unwrap_or_default()),
                None => host.rsplit_once(':').unwrap_or((host, "")),
            };
            if !port.bytes().all(|byte| byte.is_ascii_digit()) {
                return Err(fault("its port is no number"));
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
                pair.split_once('=').ok_or_else(|| fault("what follows the ? is not key=value"))?;
            match key {
                "password" => password = Some(decode(value)),
                "sslpassword" => key_password = Some(decode(value)),
                "options" => return Err(fault("it sets options, which tenantry needs itself")),
                "ssl" if value == "true" => put("sslmode", "require")?,
                key if key.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'_') => {
                    put(key, value)?;
                }
                _ => return Err(fault("what follows the ? is not key=value")),
            }
        }
        let mut target = Self { parameters, password, key_password };
        target.complete();
        Ok(target)
    }

    /// Whether libpq takes some of it from a file of services.
    pub(super) fn has_service(&self) -> bool {
        self.get("service").is_some() || std::env::var_os("PGSERVICE").is_some()
    }

    /// What libpq would take from the environment says where the database is as well.
    fn complete(&mut self) {
        if self.has_service() {
            return;
        }
        let names_a_host = self.get("host").is_some();
        for (key, variable) in [("host", "PGHOST"), ("port", "PGPORT"), ("dbname", "PGDATABASE")] {
            let value = std::env::var(variable).ok().filter(|value| !value.is_empty());
            // A port belongs to the host that it was said with.
            let is_said = self.get(key).is_some() || (key == "port" && names_a_host);
            if let Some(value) = value.filter(|_| !is_said) {
                self.parameters.push((key.into(), value));
            }
        }
    }

    /// `DATABASE@HOST-PORT`, in letters that a folder's name can have: another one for each database.
    pub(super) fn folder_name(&self) -> String {
        let database = self.get("dbname").map_or("default".into(), |name| plain(name, "database"));
        let host = self.get("host").map_or("local".into(), |name| plain(name, "host"));
        let port = self.get("port").map(|port| format!("-{}", plain(port, "port"))).unwrap_or_default();
        format!("{database}@{host}{port}")
    }

    /// The same server and database, another user, whose password libpq has to find.
    pub(super) fn with_user(&self, name: &str) -> Self {
        Self { password: None, ..self.with("user", name) }
    }

    /// With another value for one of libpq's keywords.
    pub(super) fn with(&self, key: &str, value: &str) -> Self {
        let mut target = self.clone();
        target.parameters.retain(|(name, _)| name != key);
        target.parameters.push((key.into(), value.into()));
        target
    }

    fn get(&self, key: &str) -> Option<&str> {
        self.parameters.iter().find(|(name, _)| name == key).map(|(_, value)| value.as_str())
    }

    /// The password, where the URL has one.
    pub(super) fn password(&self) -> Option<&str> {
        self.password.as_deref()
    }

    /// The password of the client's own key, where the URL has one.
    pub(super) fn key_password(&self) -> Option<&str> {
        self.key_password.as_deref()
    }

    /// What libpq is given: keywords and quoted values.
    pub(super) fn conninfo(&self) -> String {
        let password = self.password.iter().map(|value| ("password", value));
        self.spelled(password.chain(self.key_password.iter().map(|value| ("sslpassword", value))))
    }

    /// The same without the password, which everybody may read.
    pub(super) fn public_conninfo(&self) -> String {
        self.spelled(std::iter::empty())
    }

    fn spelled<'a>(&'a self, more: impl Iterator<Item = (&'a str, &'a String)>) -> String {
        let mut text = String::new();
        for (key, value) in self.parameters.iter().map(|(key, value)| (key.as_str(), value)).chain(more) {
            // Writing to a string can't fail.
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

    /// Where it is, for people.
    pub(super) fn location(&self) -> String {
        let user = self.get("user").map(|user| format!("{user}@")).unwrap_or_default();
        let host = self.get("host").unwrap_or_default();
        let port = self.get("port").map(|port| format!(":{port}")).unwrap_or_default();
        let database = self.get("dbname").map(|name| format!("/{name}")).unwrap_or_default();
        format!("postgres://{user}{host}{port}{database}")
    }

    /// A message without the password, should one have got into it.
    pub(super) fn redact(&self, message: &str) -> String {
        let secrets = [&self.password, &self.key_password].into_iter().flatten().filter(|it| it.len() > 2);
        secrets.fold(message.to_string(), |message, secret| message.replace(secret.as_str(), HIDDEN))
    }
}

fn fault(what: &str) -> Error {
    Error::new(ErrorKind::Configuration, format!("cannot read the store's URL: {what}")).with_hint(
        "write it like postgres://user:password@host:5432/database, a password's special characters as %40 and so on",
    )
}

/// Splits at the `@` before the host. A password may have one that nobody encoded, and a `/` or a `?` too, so it is the last
/// one that is not in a query's value.
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

/// Takes `%XX` for a byte; a percent sign that begins none stays.
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
