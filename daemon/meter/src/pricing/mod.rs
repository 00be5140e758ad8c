//! Signed prices, and what an exchange cost by them.
