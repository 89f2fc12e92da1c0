//! The stand-in over real sockets.

#[cfg(test)]
mod admin;
#[cfg(test)]
mod assertions;
#[cfg(test)]
mod client;
#[cfg(test)]
mod faults;
#[cfg(test)]
mod flow;
