//! What an exchange cost, by a signed catalogue of list prices.
//!
//! A *catalogue* is a signed list of unit prices in whole pico-dollars a token. A *quote* multiplies reported token
//! counts by unit prices, class by class. What is not known costs `None`, never 0 and never a guess.

pub mod catalogue;
pub mod quote;

pub use catalogue::{Catalogue, CatalogueError, CatalogueSource, PriceState, Trusted};
pub use quote::price;
