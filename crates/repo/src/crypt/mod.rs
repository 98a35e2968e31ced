//! Keys, seals, signatures.
//!
//! `seal` protects frames with a data key, `identity` protects data keys with age, `sign` proves origin, `page_hash`
//! tells changed pages. Ciphers and curves come from `aws-lc-rs`, envelopes from `age`; nothing here is invented.

pub mod identity;
pub mod page_hash;
pub mod random;
pub mod seal;
pub mod sign;
