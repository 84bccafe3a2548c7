from services.payments.app import main

raise SystemExit(main())
