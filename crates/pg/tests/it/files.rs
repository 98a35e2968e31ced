//! PostgreSQL's files against PostgreSQL's own tools.

mod cluster;
mod conf;
mod control;
mod manifest;
mod pages;
mod robust;
mod tree;
