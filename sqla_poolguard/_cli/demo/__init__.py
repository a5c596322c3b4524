"""`poolguard demo`: a real PostgreSQL, a real FastAPI application and a real HTTP load, in three acts."""
