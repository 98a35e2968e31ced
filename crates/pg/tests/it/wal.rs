//! WAL of real servers, with `pg_waldump` as the oracle.

mod crash;
mod damage;
mod oracle;
mod promotion;
mod records;
