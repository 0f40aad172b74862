//! Schemas made and removed.
//!
//! It must not show a half-made project: a schema is made, filled and recorded in one transaction.

use super::session::PostgresSession;
use super::{OWN, PostgresStore};
use crate::error::Result;
use crate::project::ProjectId;
use crate::store::{FinalCopy, ForeignKeys, Lock, Look, Mode, Session as _, Template};

const ALONE: Mode = Mode { foreign_keys: ForeignKeys::Enforced, lock: Lock::Transaction, look: Look::Anew };

/// Makes a project by running its migrations.
pub(super) fn create(store: &PostgresStore, id: &ProjectId, template: Template<'_>) -> Result<()> {
    let name = store.name(id)?;
    let mut session = PostgresSession::new(store, store.links.get()?, name);
    session.begin(ALONE)?;
    session.make(template.fill)
}

/// A private schema that nobody else ever sees: the transaction in which it is made is never committed.
pub(super) fn scratch(store: &PostgresStore) -> Result<PostgresSession<'_>> {
    let name = format!("{OWN}scratch_{}", uuid::Uuid::now_v7().simple());
    let mut session = PostgresSession::new(store, store.links.get()?, name);
    session.begin(ALONE)?;
    session.make_within()?;
    Ok(session)
}

/// Deletes a project, or gives its schema a name that is no project's.
pub(super) fn remove(store: &PostgresStore, id: &ProjectId, copy: FinalCopy) -> Result<Option<String>> {
    let mut session = store.session(id)?;
    session.begin(ALONE)?;
    session.remove(copy)
}
