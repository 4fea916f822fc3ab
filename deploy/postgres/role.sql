-- A role for the guards that can do nothing but use its own schema. Run it once, as a superuser or the owner of the
-- database, in the database of the guards. The password is taken from the environment, so it is in no command line:
--   createdb spendguard
--   SPENDGUARD_DB_PASSWORD=… psql --dbname spendguard --set ON_ERROR_STOP=1 --file role.sql
-- compose-cluster.yml runs it when the database is made.
\getenv password SPENDGUARD_DB_PASSWORD

CREATE ROLE spendguard LOGIN NOSUPERUSER NOCREATEDB NOCREATEROLE NOREPLICATION NOBYPASSRLS PASSWORD :'password';

-- No other role connects, and the guards make nothing outside their schema.
REVOKE ALL ON DATABASE :"DBNAME" FROM PUBLIC;
GRANT CONNECT ON DATABASE :"DBNAME" TO spendguard;
REVOKE ALL ON SCHEMA public FROM PUBLIC;

-- They make and migrate the tables in it, so it is theirs.
CREATE SCHEMA spendguard AUTHORIZATION spendguard;
ALTER ROLE spendguard IN DATABASE :"DBNAME" SET search_path = spendguard;

-- A hold that was committed survives a crash of the server: on is the default, and this keeps it if the server's differs.
ALTER ROLE spendguard IN DATABASE :"DBNAME" SET synchronous_commit = on;
