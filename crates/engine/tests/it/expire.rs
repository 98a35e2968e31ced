//! Expiry: that nothing needed is ever deleted, and nothing unneeded stays for ever.

mod guards;
mod history;
mod rules;
mod world;
