//! Stories that people, clients and operators live with the real binary.
