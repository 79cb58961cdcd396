//! osctl from the outside: the program itself, alone and against a node on
//! loopback that answers from a script.

mod bundle;
mod calls;
mod desk;
mod drafts;
mod examples;
mod first_config;
mod node;
mod offline;
