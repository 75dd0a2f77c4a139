//! Who may talk to whom: certificates from one CA, checked on both ends of every connection.
