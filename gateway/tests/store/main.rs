//! The books, on both databases: every test runs on a SQLite file and on Postgres, each in a database of its own, and
//! ends with a check of the books.

mod accounts;
mod allowances;
mod challenges;
mod check;
mod compat;
mod counters;
mod crash;
mod earnings;
mod erasing;
mod fill;
mod interleavings;
mod lease;
mod limits;
mod network;
mod operator;
mod process;
mod promotional;
mod proofs;
mod random;
mod random_earnings;
mod receipts;
mod responses;
mod settle;
mod speed;
mod support;
mod usage;
mod volume;
mod vouchers;
mod webhooks;
mod withheld;
mod written;
