-- Who may look at, and tend, what admins decide about.

CREATE TABLE roles (
    user_id TEXT NOT NULL PRIMARY KEY, -- whose; an admin needs no row
    role TEXT NOT NULL                -- operator: looks and retries; auditor: looks and exports
);
