//! Against real PostgreSQL.

mod files;

mod server;
mod sql;
mod wal;
