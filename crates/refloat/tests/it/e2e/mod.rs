//! The whole way on real servers: back up, archive, restore to a moment, start, compare with the truth of that moment.

mod buckets;
mod chain;
mod completions;
mod crashed;
mod debian;
mod delta;
mod expire;
mod heal;
mod keys;
mod kills;
mod limits;
mod locked;
mod network;
mod pitr;
mod rescue;
mod restored;
mod scale;
mod several;
mod site;
mod standby;
mod stores;
mod tablespaces;
mod takeover;
mod timelines;
mod upgrade;
mod wal;
