//! The whole product, as its users meet it: real processes, real databases, real kills.

mod support;

mod account;
mod admin;
mod catalogue;
mod chaos;
mod charging;
mod cli;
mod continued;
mod disconnects;
mod docs;
mod draining;
mod earnings;
mod errors;
mod floods;
mod forms;
mod kills;
mod kills_under_load;
mod limits;
mod observed;
mod outages;
mod proxies;
mod recount;
mod redis_forms;
mod refused;
mod replicas;
mod resume;
mod routing;
mod scraped;
mod sdk;
mod shared_books;
mod shared_limits;
mod streams;
mod surface;
mod top_ups;
mod vouchers;
