//! What an exchange cost, by a signed catalogue of list prices.
//!
//! A *catalogue* is a signed list of unit prices in whole pico-dollars a token. A *quote* multiplies reported token
//! counts by unit prices, class by class. What is not known costs `None`, never 0 and never a guess; what rests on an
//! assumption is `estimated` and names it.
//!
//! Prices are list prices: discounts that a customer negotiated are not known here.

pub mod catalogue;
mod format;
pub mod quote;

pub use catalogue::{Catalogue, CatalogueError, CatalogueSource, PriceState, Trusted};
pub use format::{ModelMatch, ModelPrices, PriceConfidence, Rate, Tier, UnitPrices};
pub use quote::price;
