-- Its months are made.
INSERT INTO entry SELECT * FROM entry_whole;
-- Who may read the table as a whole may read its partitions through it.
DO $$
DECLARE
    granted RECORD;
BEGIN
    FOR granted IN
        SELECT acl.privilege_type, '' AS columns, acl.grantee, acl.is_grantable
        FROM pg_class, aclexplode(relacl) AS acl
        WHERE oid = CAST('entry_whole' AS regclass) AND acl.grantee <> relowner
        UNION ALL
        SELECT acl.privilege_type, format('(%I)', attname), acl.grantee, acl.is_grantable
        FROM pg_attribute, aclexplode(attacl) AS acl
        WHERE attrelid = CAST('entry_whole' AS regclass)
    LOOP
        EXECUTE format(
            'GRANT %s %s ON entry TO %s %s',
            granted.privilege_type,
            granted.columns,
            CASE granted.grantee WHEN 0 THEN 'PUBLIC' ELSE CAST(CAST(granted.grantee AS regrole) AS TEXT) END,
            CASE WHEN granted.is_grantable THEN 'WITH GRANT OPTION' ELSE '' END
        );
    END LOOP;
END $$;
DROP TABLE entry_whole;
-- Indexes are built after the copy, which is faster. All endings of a hold have its admission time, so this key still
-- rejects a second one.
ALTER TABLE entry ADD PRIMARY KEY (id, admitted_ms);
CREATE INDEX entry_admitted ON entry (admitted_ms);
-- The corrections of an entry, to be summed up before another is made.
CREATE INDEX entry_corrects ON entry (corrects) WHERE corrects IS NOT NULL;
