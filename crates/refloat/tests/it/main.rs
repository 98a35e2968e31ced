//! The program, run as its users run it.

mod cli;
mod demo;
mod e2e;
