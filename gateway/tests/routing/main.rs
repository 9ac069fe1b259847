//! Routing without a network: the same code that serves requests, on a virtual clock, compared with simpler ways to choose;
//! and how long a choice takes. `make simulate` writes the table in ROUTING.md, `make bench` measures.

mod bench;
mod policy;
mod simulation;
mod table;
mod world;
